"""Completions in OpenAI's format, as in llama-cpp-python, plus ``abstained``, ``doubt`` and ``timings``."""

from __future__ import annotations

import codecs
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from metadeploy._checks import check, check_all, flag, shown, visible_text, whole_number
from metadeploy._prompts import is_sequence
from metadeploy.runtime.options import CHAT_DEFAULTS, COMPLETION_DEFAULTS, complete
from metadeploy.runtime.stream import last, through
from metadeploy.runtime.types import GenerationChunk, GenerationResult, Timings, TokenLogprob

__all__ = ["chat_completion", "text_completion"]

_SHAPE: Final = {"stream": flag().or_none(), "model": visible_text().or_none()}
_CHAT: Final = {"logprobs": flag().or_none(), "top_logprobs": whole_number(0).or_none()}
_ECHO: Final = flag().or_none()
#: Options that :meth:`MetaLlama.stream` does not have, or has with another meaning.
_OPENAI_ONLY: Final = frozenset({"logprobs", "top_logprobs", "echo", "model"})

#: :meth:`MetaLlama.stream`.
Answer = Callable[..., Iterator[GenerationChunk]]
Logprobs = tuple[TokenLogprob, ...] | None


def chat_completion(
    answer: Answer, messages: Any, model: str, *, stream: bool | None, options: Mapping[str, Any]
) -> dict[str, Any] | Iterator[dict[str, Any]]:
    """Answer a conversation with a ``chat.completion``, or with ``chat.completion.chunk`` objects.

    Args:
        answer: answers token by token.
        messages: the conversation so far.
        model: the ``model`` field, if ``options`` has none.
        stream: return an iterator of chunks.
        options: `ChatCompletionOptions`.
    """
    values = complete("create_chat_completion", CHAT_DEFAULTS, options)
    logprobs, top_logprobs = values["logprobs"], values["top_logprobs"]
    check_all(_SHAPE, {"stream": stream, "model": values["model"]})
    check_all(_CHAT, {"logprobs": logprobs, "top_logprobs": top_logprobs})
    if not is_sequence(messages):
        raise TypeError(f"messages is {shown(messages)}, expected a list of messages")
    if top_logprobs is not None and not logprobs:
        raise ValueError(f"top_logprobs is {top_logprobs}, expected logprobs=True with it")
    chunks = answer(messages, **_stream_options(values), logprobs=(top_logprobs or 0) if logprobs else None)
    head = {"id": f"chatcmpl-{uuid.uuid4()}", "created": int(time.time()), "model": values["model"] or model}
    shape = _Shape(
        whole_head={**head, "object": "chat.completion"},
        chunk_head={**head, "object": "chat.completion.chunk"},
        whole=lambda text: {"message": {"role": "assistant", "content": text}},
        part=lambda text: {"delta": {} if text is None else {"content": text}},
        logprobs=_chat_logprobs,
        first={"delta": {"role": "assistant"}},
    )
    return through(chunks, shape.stream) if stream else shape.result(chunks)


def text_completion(
    answer: Answer, prompt: Any, model: str, *, stream: bool | None, options: Mapping[str, Any]
) -> dict[str, Any] | Iterator[dict[str, Any]]:
    """Continue a text with a ``text_completion``, or with an iterator of them.

    Args:
        answer: answers token by token.
        prompt: the text.
        model: the ``model`` field, if ``options`` has none.
        stream: return an iterator of chunks.
        options: `CompletionOptions`.
    """
    values = complete("create_completion", COMPLETION_DEFAULTS, options)
    check_all(_SHAPE, {"stream": stream, "model": values["model"]})
    check("echo", values["echo"], _ECHO)
    if values["echo"] and not isinstance(prompt, str):
        raise TypeError(f"echo is True and the prompt {shown(prompt)}, expected a text to begin with")
    chunks = answer(prompt, **_stream_options(values), raw=True, logprobs=values["logprobs"])
    echo = prompt if values["echo"] else ""
    head = {
        "id": f"cmpl-{uuid.uuid4()}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": values["model"] or model,
    }
    shape = _Shape(
        whole_head=head,
        chunk_head=head,
        whole=lambda text: {"text": echo + text},
        part=lambda text: {"text": text or ""},
        logprobs=_TextLogprobs(len(echo)),
        first={"text": echo} if echo else None,
    )
    return through(chunks, shape.stream) if stream else shape.result(chunks)


def _stream_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for :meth:`MetaLlama.stream`; null means its default, except for ``max_tokens``."""
    return {
        name: value
        for name, value in values.items()
        if name not in _OPENAI_ONLY and (value is not None or name == "max_tokens")
    }


@dataclass(frozen=True)
class _Shape:
    """The differences between the two kinds of completion.

    Attributes:
        whole_head: fields of a finished answer before its choices.
        chunk_head: the same of a chunk.
        whole: the text of a finished answer as fields of the choice.
        part: the text of a chunk as fields of the choice; None ends the answer.
        logprobs: log-probabilities as the ``logprobs`` field.
        first: fields of the choice in a chunk before the answer; None for no such chunk.
    """

    whole_head: dict[str, Any]
    chunk_head: dict[str, Any]
    whole: Callable[[str], dict[str, Any]]
    part: Callable[[str | None], dict[str, Any]]
    logprobs: Callable[[Logprobs], dict[str, Any] | None]
    first: dict[str, Any] | None

    def result(self, chunks: Iterator[GenerationChunk]) -> dict[str, Any]:
        """Return the finished answer."""
        result = last(chunks).result
        assert result is not None  # the last chunk holds it
        choice = {
            "index": 0,
            **self.whole(result.text),
            "logprobs": self.logprobs(result.logprobs),
            "finish_reason": result.finish_reason,
            "abstained": result.abstained,
            "doubt": result.doubt,
            **_verdict(result),
        }
        return {**self.whole_head, "choices": [choice], **_usage(result.timings)}

    def stream(self, chunks: Iterator[GenerationChunk]) -> Generator[dict[str, Any]]:
        """Yield the text as it comes, with doubt; the last chunk has finish_reason, abstained and timings."""

        def chunk_of(part: dict[str, Any], logprobs: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
            choice = {"index": 0, **part, "logprobs": logprobs, "finish_reason": None, **more}
            return {**self.chunk_head, "choices": [choice]}

        if self.first is not None:
            yield chunk_of(self.first, None)
        for chunk in chunks:
            if chunk.text or chunk.logprobs:
                yield chunk_of(self.part(chunk.text), self.logprobs(chunk.logprobs), doubt=chunk.doubt)
            if (result := chunk.result) is not None:
                end = {"finish_reason": result.finish_reason, "abstained": result.abstained, **_verdict(result)}
                yield {**chunk_of(self.part(None), None, doubt=chunk.doubt, **end), **_usage(result.timings)}


def _verdict(result: GenerationResult) -> dict[str, Any]:
    """Return the ``verdict`` field of a choice, or nothing if there is no verdict."""
    if result.verdict is None:
        return {}
    return {"verdict": asdict(result.verdict), **({} if result.withheld is None else {"withheld": result.withheld})}


def _usage(timings: Timings) -> dict[str, Any]:
    usage = {
        "prompt_tokens": timings.n_prompt,
        "completion_tokens": timings.n_generated,
        "total_tokens": timings.n_prompt + timings.n_generated,
    }
    return {"usage": usage, "timings": asdict(timings)}


def _raw(item: TokenLogprob) -> bytes:
    return item.text.encode() if item.raw is None else item.raw


def _top(item: TokenLogprob) -> Iterator[tuple[str, bytes, float]]:
    """Yield text, bytes and log-probability of each of the most likely tokens."""
    raw = item.top_raw if item.top_raw is not None else tuple(text.encode() for _, text, _ in item.top)
    for (_, text, logprob), data in zip(item.top, raw, strict=True):
        yield text, data, logprob


def _chat_logprobs(items: Logprobs) -> dict[str, Any] | None:
    """Return each token with its bytes. If a character spans several tokens, the client must join their bytes."""
    if items is None:
        return None

    def entry(text: str, raw: bytes, logprob: float) -> dict[str, Any]:
        return {"token": text, "bytes": list(raw) or None, "logprob": logprob}

    return {
        "content": [
            {
                **entry(item.text, _raw(item), item.logprob),
                "top_logprobs": [entry(*candidate) for candidate in _top(item)],
            }
            for item in items
        ]
    }


class _TextLogprobs:
    """The ``logprobs`` field of a ``text_completion``; offsets count characters from the beginning of the text."""

    def __init__(self, start: int) -> None:
        self._characters = start
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __call__(self, items: Logprobs) -> dict[str, Any] | None:
        """Return the log-probabilities of the next tokens."""
        if items is None:
            return None
        return {
            "tokens": [item.text for item in items],
            "token_logprobs": [item.logprob for item in items],
            "top_logprobs": [_by_text(item) for item in items],
            "text_offset": [self._offset(_raw(item)) for item in items],
        }

    def _offset(self, raw: bytes) -> int:
        """Return the offset of the next token. A token inside a character gets the offset of that character."""
        offset = self._characters
        self._characters += len(self._decoder.decode(raw))
        return offset


def _by_text(item: TokenLogprob) -> dict[str, float]:
    """Return the log-probabilities of the most likely tokens by their text, the most likely first.

    Different tokens can have the same text, such as tokens that are only part of a character. The first one keeps its
    text as the key. The others get their bytes as the key, in the way that OpenAI's API writes parts of characters.
    """
    by_name: dict[str, float] = {}
    for text, raw, logprob in sorted(_top(item), key=lambda entry: entry[1] != _raw(item)):
        name = text
        if name in by_name:
            name = "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
        by_name[name] = logprob
    return dict(sorted(by_name.items(), key=lambda entry: -entry[1]))
