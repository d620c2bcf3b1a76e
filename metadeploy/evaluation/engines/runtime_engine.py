"""The engine in the compiled runtime: any base GGUF, several questions at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from metadeploy.data.checker import uses_full_answer
from metadeploy.data.question import Question
from metadeploy.evaluation.engines import AS_SHIPPED, BEYOND_REFUSAL, Answered, AnswerLimits, BaseAnswer, Reply
from metadeploy.evaluation.engines.accumulator import AnswerAccumulator
from metadeploy.runtime import MetaLlama, Request
from metadeploy.sidecar.spec import DEFAULT_THRESHOLD

__all__ = ["RuntimeEngine"]

#: The threshold that never declines.
_NEVER: Final = 1.0


class RuntimeEngine:
    """A base GGUF with its sidecar."""

    def __init__(self, llm: MetaLlama, *, limits: AnswerLimits) -> None:
        """Take a loaded model, with a sidecar attached; `close` closes it.

        Args:
            llm: the model; as many answers are made at once as it has sequences.
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

    def ask(self, questions: Sequence[Question], *, gains: Sequence[float]) -> Iterator[Answered]:
        """Answer questions, those that are declined at last; as `Engine.ask`."""
        declined: dict[int, list[_Said]] = {}
        for index, said in self._say(questions, gains):
            if any(reply.declines for reply in said[1:]):
                declined[index] = said
            else:
                yield _answered(index, said, None)
        refusals = self._llm.generate_batch(
            (Request(prompt=questions[index].question, gain=AS_SHIPPED) for index in declined),
            max_tokens=self._refusal_length,
        )
        for answer, (index, said) in zip(refusals, declined.items(), strict=True):
            if answer.error is not None:
                raise answer.error
            assert answer.result is not None
            yield _answered(index, said, answer.result.text.strip())

    def _say(self, questions: Sequence[Question], gains: Sequence[float]) -> Iterator[tuple[int, list[_Said]]]:
        """Each question with the base's answer, then the Doubter's where it answers, for each gain."""
        whole = [uses_full_answer(question, whole=self._limits.whole_answer) for question in questions]
        said = [[_Said(gain, AnswerAccumulator(whole=all_of_it)) for gain in (None, *gains)] for all_of_it in whole]
        places = [(index, one) for index, each in enumerate(said) for one in each]
        steps = self._llm.stream_batch(
            (one.request(questions[index].question) for index, one in places),
            max_tokens=self._limits.max_new_tokens,
            logprobs=0,
        )
        for answer, chunk in steps:
            if chunk is None:
                assert answer.error is not None
                raise answer.error
            index, one = places[answer.index]
            if one.answer.add(chunk):
                answer.close()
                if all(each.answer.complete for each in said[index]):
                    yield index, said[index]


@dataclass
class _Said:
    """One answer to a question; of the base alone where the gain is None."""

    gain: float | None
    answer: AnswerAccumulator

    def request(self, question: str) -> Request:
        if self.gain is None:
            return Request(prompt=question, inject=False, doubt_threshold=DEFAULT_THRESHOLD)
        return Request(prompt=question, gain=self.gain, doubt_threshold=_NEVER)

    @property
    def declines(self) -> bool:
        """Whether a refusal is to be spelt out."""
        return self.gain == AS_SHIPPED and self.answer.doubt >= DEFAULT_THRESHOLD

    def of_the_base(self) -> BaseAnswer:
        kept = self.answer.kept
        return BaseAnswer(kept.text, tuple(self.answer.logprobs[: kept.n_tokens]), kept.complete)

    def reply(self, refusal: str | None) -> Reply:
        assert self.gain is not None
        return Reply(self.gain, self.answer.doubt, self.answer.kept.text, refusal if self.declines else None)


def _answered(index: int, said: Sequence[_Said], refusal: str | None) -> Answered:
    return Answered(index, said[0].of_the_base(), tuple(one.reply(refusal) for one in said[1:]))
