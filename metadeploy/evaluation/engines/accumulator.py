"""Collects an answer of the compiled runtime from its chunks."""

from __future__ import annotations

from metadeploy.data.answers import ExtractedAnswer, extract_answer, is_complete
from metadeploy.errors import Error
from metadeploy.runtime import GenerationChunk

__all__ = ["AnswerAccumulator"]


class AnswerAccumulator:
    """A growing answer.

    Attributes:
        complete: whether the part of the answer that counts is complete.
        logprobs: natural log-probability of each token, if the request asked for them.
    """

    def __init__(self, *, whole: bool) -> None:
        """Start an answer; ``whole`` means that the whole answer counts, and not only its first sentence."""
        self.complete = False
        self.logprobs: list[float] = []
        self._whole = whole
        self._doubt: float | None = None
        self._ended = False
        self._token_ids: list[int] = []
        self._texts = [""]  # the text after each number of tokens

    def add(self, chunk: GenerationChunk) -> bool:
        """Add a chunk. Return whether the answer is complete."""
        self._token_ids += chunk.token_ids
        self.logprobs += [item.logprob for item in chunk.logprobs or ()]
        self._texts += [self._texts[-1]] * len(chunk.token_ids)
        self._texts[-1] += chunk.text
        self._doubt = chunk.doubt
        self._ended = chunk.result is not None and chunk.result.finish_reason == "stop"
        self.complete = chunk.result is not None or is_complete(self._texts[-1], whole=self._whole)
        return self.complete

    @property
    def result(self) -> ExtractedAnswer:
        """The part of the answer that counts. It has the streamed text, because decoding again may change spaces."""
        return extract_answer(self._token_ids, lambda ids: self._texts[len(ids)], ended=self._ended, whole=self._whole)

    @property
    def doubt(self) -> float:
        """The doubt of the answer, in [0, 1].

        Raises:
            Error: the runtime cannot measure doubt.
        """
        if self._doubt is None:
            raise Error("sidecar: has no refusal with tokens in this vocabulary, expected one to measure doubt")
        return self._doubt
