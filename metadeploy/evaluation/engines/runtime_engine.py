"""The engine in the compiled runtime: any base GGUF, one question after the other."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Final, cast

from metadeploy.errors import Error
from metadeploy.evaluation.engines import AS_SHIPPED, BEYOND_REFUSAL, Answered, AnswerLimits, BaseAnswer, Reply
from metadeploy.reference.doubt import AS_CALIBRATED
from metadeploy.runtime import GenerationChunk, MetaLlama
from metadeploy.training.greedy import kept_text, says_enough

__all__ = ["RuntimeEngine"]

#: The threshold that never declines.
_NEVER: Final = 1.0


class RuntimeEngine:
    """A base GGUF with its sidecar."""

    def __init__(self, llm: MetaLlama, *, limits: AnswerLimits) -> None:
        """Take a loaded model, with a sidecar attached; `close` closes it.

        Args:
            llm: the model.
            limits: of the answers.
        """
        self._llm = llm
        self._limits = limits
        #: What the wrapper was trained to say when it does not know.
        self.refusal_text = llm.refusal_text
        self._refusal_length = len(llm.tokenize(llm.refusal_text, add_special=False)) + BEYOND_REFUSAL

    def close(self) -> None:
        """Free the model."""
        self._llm.close()

    def ask(self, questions: Sequence[str], *, gains: Sequence[float]) -> Iterator[Answered]:
        """Answer questions in their order; as `Engine.ask`."""
        for index, question in enumerate(questions):
            base, _ = self._say(question, None)
            yield Answered(index, base, tuple(self._reply(question, gain) for gain in gains))

    def _reply(self, question: str, gain: float) -> Reply:
        answer, doubt = self._say(question, gain)
        if doubt is None:
            raise Error("sidecar: tells no refusal that this vocabulary has tokens for, expected one to measure doubt")
        refusal = None
        if gain == AS_SHIPPED and doubt >= AS_CALIBRATED:
            refusal = self._llm.generate(question, max_tokens=self._refusal_length, gain=gain).text.strip()
        return Reply(gain, doubt, answer.text, refusal)

    def _say(self, question: str, gain: float | None) -> tuple[BaseAnswer, float | None]:
        """The base's answer where the gain is None, else the Doubter's where it answers; and its doubt."""
        token_ids: list[int] = []
        logprobs: list[float] = []
        shown = [""]  # the text as it stands after so many tokens
        doubt, ended = None, False
        stream = self._llm.stream(
            question,
            max_tokens=self._limits.max_new_tokens,
            inject=gain is not None,
            gain=gain,
            doubt_threshold=AS_CALIBRATED if gain is None else _NEVER,
            logprobs=0,
        )
        with closing(cast("Generator[GenerationChunk]", stream)):  # the model is busy until it is closed
            for chunk in stream:
                token_ids += chunk.token_ids
                logprobs += [item.logprob for item in chunk.logprobs or ()]
                shown += [shown[-1]] * len(chunk.token_ids)
                shown[-1] += chunk.text
                doubt = chunk.doubt
                ended = chunk.result is not None and chunk.result.finish_reason == "stop"
                if says_enough(shown[-1], whole=self._limits.whole_answer):
                    break
        # as shown, and not decoded anew: that may tidy spaces up
        kept = kept_text(token_ids, lambda ids: shown[len(ids)], ended=ended, whole=self._limits.whole_answer)
        return BaseAnswer(kept.text, tuple(logprobs[: kept.n_tokens]), kept.complete), doubt
