"""Results in the shapes of OpenAI's API, as llama-cpp-python has them, with ``abstained`` and ``timings`` beside."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from metadeploy.runtime.types import GenerationChunk, GenerationResult, Timings, TokenLogprob

__all__ = ["ChatCompletion", "TextCompletion"]


def _usage(timings: Timings) -> dict[str, int]:
    return {
        "prompt_tokens": timings.n_prompt,
        "completion_tokens": timings.n_generated,
        "total_tokens": timings.n_prompt + timings.n_generated,
    }


def _last(chunks: Iterator[GenerationChunk]) -> GenerationResult:
    result = None
    for chunk in chunks:
        result = chunk.result
    assert result is not None  # the last chunk holds it
    return result


class ChatCompletion:
    """One ``chat.completion``, whole or in chunks."""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4()}", "created": int(time.time()), "model": model}

    @staticmethod
    def _logprobs(items: tuple[TokenLogprob, ...] | None) -> dict[str, Any] | None:
        if items is None:
            return None

        def entry(text: str, logprob: float) -> dict[str, Any]:
            return {"token": text, "bytes": list(text.encode()), "logprob": logprob}

        return {
            "content": [
                {
                    **entry(item.text, item.logprob),
                    "top_logprobs": [entry(text, logprob) for _, text, logprob in item.top],
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
                }
            ],
            "usage": _usage(result.timings),
            "timings": asdict(result.timings),
        }

    def stream(self, chunks: Iterator[GenerationChunk]) -> Iterator[dict[str, Any]]:
        """The role first, then the text as it comes; the last chunk has finish_reason, abstained and timings."""

        def chunk_of(delta: dict[str, str], logprobs: dict[str, Any] | None) -> dict[str, Any]:
            choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}
            return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

        yield chunk_of({"role": "assistant"}, None)
        for chunk in chunks:
            if chunk.text or chunk.logprobs:
                yield chunk_of({"content": chunk.text}, self._logprobs(chunk.logprobs))
            if chunk.result is not None:
                last = chunk_of({}, None)
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

    def _logprobs(self, items: tuple[TokenLogprob, ...] | None) -> dict[str, Any] | None:
        if items is None:
            return None
        offsets = [len(self._echo)]
        for item in items:
            offsets.append(offsets[-1] + len(item.text))
        return {
            "tokens": [item.text for item in items],
            "token_logprobs": [item.logprob for item in items],
            "top_logprobs": [{text: logprob for _, text, logprob in item.top} for item in items],
            "text_offset": offsets[:-1],
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
                }
            ],
            "usage": _usage(result.timings),
            "timings": asdict(result.timings),
        }

    def stream(self, chunks: Iterator[GenerationChunk]) -> Iterator[dict[str, Any]]:
        """The text as it comes; the last chunk has finish_reason, abstained and timings."""

        def chunk_of(text: str, logprobs: dict[str, Any] | None) -> dict[str, Any]:
            choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": None}
            return {**self._head, "choices": [choice]}

        if self._echo:
            yield chunk_of(self._echo, None)
        for chunk in chunks:
            if chunk.text or chunk.logprobs:
                yield chunk_of(chunk.text, self._logprobs(chunk.logprobs))
            if chunk.result is not None:
                last = chunk_of("", None)
                last["choices"][0]["finish_reason"] = chunk.result.finish_reason
                last["choices"][0]["abstained"] = chunk.result.abstained
                last["usage"] = _usage(chunk.result.timings)
                last["timings"] = asdict(chunk.result.timings)
                yield last
