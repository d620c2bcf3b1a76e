"""The engine in the compiled runtime: any base GGUF, several questions at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from metadeploy.data.checker import uses_full_answer
from metadeploy.data.question import Question
from metadeploy.evaluation.engines import DEFAULT_GAIN, REFUSAL_SLACK, Answered, AnswerLimits, BaseAnswer, Reply
from metadeploy.evaluation.engines.accumulator import AnswerAccumulator
from metadeploy.runtime import MetaLlama, Request
from metadeploy.sidecar.spec import DEFAULT_THRESHOLD

__all__ = ["RuntimeEngine"]

#: With this threshold, the Doubter never declines.
_NEVER_DECLINE: Final = 1.0


class RuntimeEngine:
    """A base GGUF with its sidecar."""

    def __init__(self, llm: MetaLlama, *, limits: AnswerLimits) -> None:
        """Take a loaded model with a sidecar. `close` closes it.

        Args:
            llm: the model; it generates as many answers at once as it has sequences.
            limits: limits of the answers.
        """
        self._llm = llm
        self._limits = limits
        #: The trained refusal.
        self.refusal_text = llm.refusal_text
        self._refusal_length = len(llm.tokenize(llm.refusal_text, add_special=False)) + REFUSAL_SLACK

    def close(self) -> None:
        """Free the model."""
        self._llm.close()

    def ask(self, questions: Sequence[Question], *, gains: Sequence[float]) -> Iterator[Answered]:
        """Answer questions as in `Engine.ask`. Declined questions come last."""
        declined: dict[int, list[_Answer]] = {}
        for index, answers in self._generate(questions, gains):
            if any(answer.declines for answer in answers[1:]):
                declined[index] = answers
            else:
                yield _answered(index, answers, None)
        refusals = self._llm.generate_batch(
            (Request(prompt=questions[index].question, gain=DEFAULT_GAIN) for index in declined),
            max_tokens=self._refusal_length,
        )
        for refusal, (index, answers) in zip(refusals, declined.items(), strict=True):
            if refusal.error is not None:
                raise refusal.error
            assert refusal.result is not None
            yield _answered(index, answers, refusal.result.text.strip())

    def _generate(self, questions: Sequence[Question], gains: Sequence[float]) -> Iterator[tuple[int, list[_Answer]]]:
        """Yield the index of each question with the base's answer, then the Doubter's answer at each gain."""
        whole = [uses_full_answer(question, whole=self._limits.whole_answer) for question in questions]
        answers = [[_Answer(gain, AnswerAccumulator(whole=is_whole)) for gain in (None, *gains)] for is_whole in whole]
        requested = [(index, answer) for index, row in enumerate(answers) for answer in row]
        stream = self._llm.stream_batch(
            (answer.request(questions[index].question) for index, answer in requested),
            max_tokens=self._limits.max_new_tokens,
            logprobs=0,
        )
        for item, chunk in stream:
            if chunk is None:
                assert item.error is not None
                raise item.error
            index, answer = requested[item.index]
            if answer.accumulator.add(chunk):
                item.close()
                if all(answer.accumulator.complete for answer in answers[index]):
                    yield index, answers[index]


@dataclass
class _Answer:
    """An answer of the Doubter at a gain, or of the base alone if the gain is None."""

    gain: float | None
    accumulator: AnswerAccumulator

    def request(self, question: str) -> Request:
        if self.gain is None:
            return Request(prompt=question, inject=False, doubt_threshold=DEFAULT_THRESHOLD)
        return Request(prompt=question, gain=self.gain, doubt_threshold=_NEVER_DECLINE)

    @property
    def declines(self) -> bool:
        """Whether the refusal must be generated too."""
        return self.gain == DEFAULT_GAIN and self.accumulator.doubt >= DEFAULT_THRESHOLD

    def base_answer(self) -> BaseAnswer:
        result = self.accumulator.result
        return BaseAnswer(result.text, tuple(self.accumulator.logprobs[: result.n_tokens]), result.complete)

    def reply(self, refusal: str | None) -> Reply:
        assert self.gain is not None
        text = self.accumulator.result.text
        return Reply(self.gain, self.accumulator.doubt, text, refusal if self.declines else None)


def _answered(index: int, answers: Sequence[_Answer], refusal: str | None) -> Answered:
    return Answered(index, answers[0].base_answer(), tuple(answer.reply(refusal) for answer in answers[1:]))
