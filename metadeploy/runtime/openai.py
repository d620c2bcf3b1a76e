"""OpenAI's calls and shapes, as llama-cpp-python has them, with ``abstained``, ``doubt`` and ``timings`` beside."""

from __future__ import annotations

import codecs
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final, Literal, overload

from numpy.typing import ArrayLike

from metadeploy._checks import check, check_all, flag, shown, visible_text, whole_number
from metadeploy._prompts import is_sequence
from metadeploy.runtime.options import given
from metadeploy.runtime.stream import last, through
from metadeploy.runtime.types import (
    CancelCallback,
    GenerationChunk,
    GenerationResult,
    Message,
    Prompt,
    Timings,
    TokenLogprob,
)
from metadeploy.schedule import STATIC, InjectionSchedule

__all__ = ["ChatCompletion", "OpenAICompletions", "TextCompletion"]

_SHAPE: Final = {"stream": flag().or_none(), "model": visible_text().or_none()}
_CHAT: Final = {"logprobs": flag().or_none(), "top_logprobs": whole_number(0).or_none()}
_ECHO: Final = flag().or_none()


def _usage(timings: Timings) -> dict[str, int]:
    return {
        "prompt_tokens": timings.n_prompt,
        "completion_tokens": timings.n_generated,
        "total_tokens": timings.n_prompt + timings.n_generated,
    }


def _last(chunks: Iterator[GenerationChunk]) -> GenerationResult:
    result = last(chunks).result
    assert result is not None  # the last chunk holds it
    return result


def _raw(item: TokenLogprob) -> bytes:
    return item.text.encode() if item.raw is None else item.raw


def _top(item: TokenLogprob) -> Iterator[tuple[str, bytes, float]]:
    """Yield text, bytes and log-probability of each of the most likely tokens."""
    raw = item.top_raw if item.top_raw is not None else tuple(text.encode() for _, text, _ in item.top)
    for (_, text, logprob), data in zip(item.top, raw, strict=True):
        yield text, data, logprob


class ChatCompletion:
    """One ``chat.completion``, whole or in chunks."""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4()}", "created": int(time.time()), "model": model}

    @staticmethod
    def _logprobs(items: tuple[TokenLogprob, ...] | None) -> dict[str, Any] | None:
        """Return each token with its bytes. If a character spans several tokens, the client must join their bytes."""
        if items is None:
            return None

        def entry(text: str, raw: bytes, logprob: float) -> dict[str, Any]:
            return {"token": text, "bytes": list(raw) or None, "logprob": logprob}

        return {
            "content": [
                {
                    **entry(item.text, _raw(item), item.logprob),
                    "top_logprobs": [entry(*each) for each in _top(item)],
                }
                for item in items
            ]
        }

    def whole(self, chunks: Iterator[GenerationChunk]) -> dict[str, Any]:
        """The finished answer."""
        result = _last(chunks)
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": result.text},
                    "logprobs": self._logprobs(result.logprobs),
                    "finish_reason": result.finish_reason,
                    "abstained": result.abstained,
                    "doubt": result.doubt,
                }
            ],
            "usage": _usage(result.timings),
            "timings": asdict(result.timings),
        }

    def stream(self, chunks: Iterator[GenerationChunk]) -> Generator[dict[str, Any]]:
        """The role first, then the text as it comes, with doubt; the last has finish_reason, abstained and timings."""

        def chunk_of(delta: dict[str, str], logprobs: dict[str, Any] | None, **more: float | None) -> dict[str, Any]:
            choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None, **more}
            return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

        yield chunk_of({"role": "assistant"}, None)
        for chunk in chunks:
            if chunk.text or chunk.logprobs:
                yield chunk_of({"content": chunk.text}, self._logprobs(chunk.logprobs), doubt=chunk.doubt)
            if chunk.result is not None:
                last = chunk_of({}, None, doubt=chunk.doubt)
                last["choices"][0]["finish_reason"] = chunk.result.finish_reason
                last["choices"][0]["abstained"] = chunk.result.abstained
                last["usage"] = _usage(chunk.result.timings)
                last["timings"] = asdict(chunk.result.timings)
                yield last


class TextCompletion:
    """One ``text_completion``, whole or in chunks."""

    def __init__(self, model: str, echo: str) -> None:
        self._head = {
            "id": f"cmpl-{uuid.uuid4()}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._echo = echo
        self._place = _Place(len(echo))

    def _logprobs(self, items: tuple[TokenLogprob, ...] | None) -> dict[str, Any] | None:
        """Return the log-probabilities of the next tokens; offsets count characters from the beginning of the text."""
        if items is None:
            return None
        return {
            "tokens": [item.text for item in items],
            "token_logprobs": [item.logprob for item in items],
            "top_logprobs": [_by_text(item) for item in items],
            "text_offset": [self._place.next(_raw(item)) for item in items],
        }

    def whole(self, chunks: Iterator[GenerationChunk]) -> dict[str, Any]:
        """The finished text."""
        result = _last(chunks)
        return {
            **self._head,
            "choices": [
                {
                    "index": 0,
                    "text": self._echo + result.text,
                    "logprobs": self._logprobs(result.logprobs),
                    "finish_reason": result.finish_reason,
                    "abstained": result.abstained,
                    "doubt": result.doubt,
                }
            ],
            "usage": _usage(result.timings),
            "timings": asdict(result.timings),
        }

    def stream(self, chunks: Iterator[GenerationChunk]) -> Generator[dict[str, Any]]:
        """The text as it comes, with doubt; the last chunk has finish_reason, abstained and timings."""

        def chunk_of(text: str, logprobs: dict[str, Any] | None, **more: float | None) -> dict[str, Any]:
            choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": None, **more}
            return {**self._head, "choices": [choice]}

        if self._echo:
            yield chunk_of(self._echo, None)
        for chunk in chunks:
            if chunk.text or chunk.logprobs:
                yield chunk_of(chunk.text, self._logprobs(chunk.logprobs), doubt=chunk.doubt)
            if chunk.result is not None:
                last = chunk_of("", None, doubt=chunk.doubt)
                last["choices"][0]["finish_reason"] = chunk.result.finish_reason
                last["choices"][0]["abstained"] = chunk.result.abstained
                last["usage"] = _usage(chunk.result.timings)
                last["timings"] = asdict(chunk.result.timings)
                yield last


class _Place:
    """Tracks the offset of each token in characters. A token inside a character gets the offset of that character."""

    def __init__(self, start: int) -> None:
        self._characters = start
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def next(self, raw: bytes) -> int:
        """Return the offset of the next token, which has these bytes."""
        here = self._characters
        self._characters += len(self._decoder.decode(raw))
        return here


def _by_text(item: TokenLogprob) -> dict[str, float]:
    """Log-probabilities of the most likely tokens by their text, the chosen one first.

    Different tokens can have the same text, such as tokens that are only part of a character. The first one keeps its
    text as the key. The others get their bytes as the key, in the way that OpenAI's API writes parts of characters.
    """
    found: dict[str, float] = {}
    for text, raw, logprob in sorted(_top(item), key=lambda each: each[1] != _raw(item)):
        name = text
        if name in found:
            name = "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
        found[name] = logprob
    return dict(sorted(found.items(), key=lambda each: -each[1]))


class OpenAICompletions(ABC):
    """The calls that take and give OpenAI's shapes, on top of :meth:`stream`."""

    @abstractmethod
    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = 512,
        temperature: float = 0.0,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        gain: float | None = None,
        inject: bool = True,
        schedule: InjectionSchedule = STATIC,
        cognitive_tokens: ArrayLike | None = None,
        doubt_threshold: float = 0.5,
        raw: bool = False,
        logprobs: int | None = None,
        cancel: CancelCallback | None = None,
    ) -> Iterator[GenerationChunk]:
        """Answer token by token."""

    @abstractmethod
    def _model_name(self) -> str:
        """What the ``model`` field says where the caller names nothing else."""

    @overload
    def create_chat_completion(
        self,
        messages: Sequence[Message],
        *,
        stream: Literal[False] | None = False,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        top_k: int | None = ...,
        top_p: float | None = ...,
        min_p: float | None = ...,
        repeat_penalty: float | None = ...,
        seed: int | None = ...,
        stop: str | Sequence[str] | None = ...,
        logprobs: bool | None = ...,
        top_logprobs: int | None = ...,
        gain: float | None = ...,
        inject: bool | None = ...,
        schedule: InjectionSchedule | None = ...,
        cognitive_tokens: ArrayLike | None = ...,
        doubt_threshold: float | None = ...,
        model: str | None = ...,
    ) -> dict[str, Any]: ...

    @overload
    def create_chat_completion(
        self,
        messages: Sequence[Message],
        *,
        stream: Literal[True],
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        top_k: int | None = ...,
        top_p: float | None = ...,
        min_p: float | None = ...,
        repeat_penalty: float | None = ...,
        seed: int | None = ...,
        stop: str | Sequence[str] | None = ...,
        logprobs: bool | None = ...,
        top_logprobs: int | None = ...,
        gain: float | None = ...,
        inject: bool | None = ...,
        schedule: InjectionSchedule | None = ...,
        cognitive_tokens: ArrayLike | None = ...,
        doubt_threshold: float | None = ...,
        model: str | None = ...,
    ) -> Iterator[dict[str, Any]]: ...

    def create_chat_completion(
        self,
        messages: Sequence[Message],
        *,
        stream: bool | None = False,
        max_tokens: int | None = None,
        temperature: float | None = 0.0,
        top_k: int | None = 40,
        top_p: float | None = 0.95,
        min_p: float | None = 0.05,
        repeat_penalty: float | None = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        logprobs: bool | None = False,
        top_logprobs: int | None = None,
        gain: float | None = None,
        inject: bool | None = True,
        schedule: InjectionSchedule | None = STATIC,
        cognitive_tokens: ArrayLike | None = None,
        doubt_threshold: float | None = 0.5,
        model: str | None = None,
    ) -> dict[str, Any] | Iterator[dict[str, Any]]:
        """A conversation in, an OpenAI ``chat.completion`` out (or ``chat.completion.chunk`` objects).

        Each choice has ``abstained`` and ``doubt`` beside ``finish_reason``; the refusal itself stays in ``content``,
        because clients read OpenAI's ``refusal`` field as a safety block. ``timings`` stands beside ``usage``.

        None means the default for every option, like null in OpenAI's API.

        Args:
            messages: the conversation so far.
            stream: return an iterator of chunks.
            max_tokens: most tokens of the answer; None: until the model ends or the context is full.
            temperature: 0 is greedy.
            top_k: as in :meth:`generate`.
            top_p: as in :meth:`generate`.
            min_p: as in :meth:`generate`.
            repeat_penalty: as in :meth:`generate`.
            seed: as in :meth:`generate`.
            stop: as in :meth:`generate`.
            logprobs: also return log-probabilities and the bytes of each token, which may be only part of a character.
            top_logprobs: how many of the most likely tokens to return; only with ``logprobs``.
            gain: as in :meth:`generate`.
            inject: as in :meth:`generate`.
            schedule: as in :meth:`generate`.
            cognitive_tokens: as in :meth:`generate`.
            doubt_threshold: as in :meth:`generate`.
            model: what to write into the ``model`` field; None: the file's name.
        """
        check_all(_SHAPE, {"stream": stream, "model": model})
        check_all(_CHAT, {"logprobs": logprobs, "top_logprobs": top_logprobs})
        if not is_sequence(messages):
            raise TypeError(f"messages is {shown(messages)}, expected a list of messages")
        if top_logprobs is not None and not logprobs:
            raise ValueError(f"top_logprobs is {top_logprobs}, expected logprobs=True with it")
        chunks = self.stream(
            messages,
            max_tokens=max_tokens,
            seed=seed,
            stop=stop,
            gain=gain,
            cognitive_tokens=cognitive_tokens,
            logprobs=(top_logprobs or 0) if logprobs else None,
            **given(
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                repeat_penalty=repeat_penalty,
                inject=inject,
                schedule=schedule,
                doubt_threshold=doubt_threshold,
            ),
        )
        shape = ChatCompletion(model or self._model_name())
        return through(chunks, shape.stream) if stream else shape.whole(chunks)

    @overload
    def create_completion(
        self,
        prompt: str,
        *,
        stream: Literal[False] | None = False,
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        top_k: int | None = ...,
        top_p: float | None = ...,
        min_p: float | None = ...,
        repeat_penalty: float | None = ...,
        seed: int | None = ...,
        stop: str | Sequence[str] | None = ...,
        logprobs: int | None = ...,
        echo: bool | None = ...,
        gain: float | None = ...,
        inject: bool | None = ...,
        schedule: InjectionSchedule | None = ...,
        cognitive_tokens: ArrayLike | None = ...,
        doubt_threshold: float | None = ...,
        model: str | None = ...,
    ) -> dict[str, Any]: ...

    @overload
    def create_completion(
        self,
        prompt: str,
        *,
        stream: Literal[True],
        max_tokens: int | None = ...,
        temperature: float | None = ...,
        top_k: int | None = ...,
        top_p: float | None = ...,
        min_p: float | None = ...,
        repeat_penalty: float | None = ...,
        seed: int | None = ...,
        stop: str | Sequence[str] | None = ...,
        logprobs: int | None = ...,
        echo: bool | None = ...,
        gain: float | None = ...,
        inject: bool | None = ...,
        schedule: InjectionSchedule | None = ...,
        cognitive_tokens: ArrayLike | None = ...,
        doubt_threshold: float | None = ...,
        model: str | None = ...,
    ) -> Iterator[dict[str, Any]]: ...

    def create_completion(
        self,
        prompt: str,
        *,
        stream: bool | None = False,
        max_tokens: int | None = 16,
        temperature: float | None = 0.0,
        top_k: int | None = 40,
        top_p: float | None = 0.95,
        min_p: float | None = 0.05,
        repeat_penalty: float | None = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        logprobs: int | None = None,
        echo: bool | None = False,
        gain: float | None = None,
        inject: bool | None = True,
        schedule: InjectionSchedule | None = STATIC,
        cognitive_tokens: ArrayLike | None = None,
        doubt_threshold: float | None = 0.5,
        model: str | None = None,
    ) -> dict[str, Any] | Iterator[dict[str, Any]]:
        """Text in, an OpenAI ``text_completion`` out (or an iterator of them). No chat template is applied.

        None means the default for every option except ``max_tokens``.

        Args:
            prompt: the text to go on from, as it is.
            stream: return an iterator of chunks.
            max_tokens: most tokens; None: until the model ends or the context is full.
            temperature: 0 is greedy.
            top_k: as in :meth:`generate`.
            top_p: as in :meth:`generate`.
            min_p: as in :meth:`generate`.
            repeat_penalty: as in :meth:`generate`.
            seed: as in :meth:`generate`.
            stop: as in :meth:`generate`.
            logprobs: also return log-probabilities, and of how many of the most likely tokens.
            echo: begin the text with the prompt.
            gain: as in :meth:`generate`.
            inject: as in :meth:`generate`.
            schedule: as in :meth:`generate`.
            cognitive_tokens: as in :meth:`generate`.
            doubt_threshold: as in :meth:`generate`.
            model: what to write into the ``model`` field; None: the file's name.
        """
        check_all(_SHAPE, {"stream": stream, "model": model})
        check("echo", echo, _ECHO)
        if echo and not isinstance(prompt, str):
            raise TypeError(f"echo is True and the prompt {shown(prompt)}, expected a text to begin with")
        chunks = self.stream(
            prompt,
            max_tokens=max_tokens,
            seed=seed,
            stop=stop,
            gain=gain,
            cognitive_tokens=cognitive_tokens,
            raw=True,
            logprobs=logprobs,
            **given(
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                repeat_penalty=repeat_penalty,
                inject=inject,
                schedule=schedule,
                doubt_threshold=doubt_threshold,
            ),
        )
        shape = TextCompletion(model or self._model_name(), prompt if echo else "")
        return through(chunks, shape.stream) if stream else shape.whole(chunks)

    __call__ = create_completion
