"""An answer of the compiled runtime, collected from its chunks."""

from __future__ import annotations

from metadeploy.data.answers import ExtractedAnswer, extract_answer, is_complete
from metadeploy.errors import Error
from metadeploy.runtime import GenerationChunk

__all__ = ["AnswerAccumulator"]


class AnswerAccumulator:
    """One answer as it grows.

    Attributes:
        complete: whether all that is kept of the answer is there.
        logprobs: natural log-probability of each token, if they were asked for.
    """

    def __init__(self, *, whole: bool) -> None:
        """Begin an answer; ``whole`` keeps all of it, and not only its first sentence."""
        self.complete = False
        self.logprobs: list[float] = []
        self._whole = whole
        self._doubt: float | None = None
        self._ended = False
        self._token_ids: list[int] = []
        self._shown = [""]  # the text after each number of tokens

    def add(self, chunk: GenerationChunk) -> bool:
        """Add a chunk; return whether the answer is complete."""
        self._token_ids += chunk.token_ids
        self.logprobs += [item.logprob for item in chunk.logprobs or ()]
        self._shown += [self._shown[-1]] * len(chunk.token_ids)
        self._shown[-1] += chunk.text
        self._doubt = chunk.doubt
        self._ended = chunk.result is not None and chunk.result.finish_reason == "stop"
        self.complete = chunk.result is not None or is_complete(self._shown[-1], whole=self._whole)
        return self.complete

    @property
    def kept(self) -> ExtractedAnswer:
        """The part that is judged; as shown, because decoding the tokens again may change spaces."""
        return extract_answer(self._token_ids, lambda ids: self._shown[len(ids)], ended=self._ended, whole=self._whole)

    @property
    def doubt(self) -> float:
        """The doubt of the answer, in [0, 1].

        Raises:
            Error: the runtime cannot measure doubt.
        """
        if self._doubt is None:
            raise Error("sidecar: tells no refusal that this vocabulary has tokens for, expected one to measure doubt")
        return self._doubt
