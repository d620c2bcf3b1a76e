"""Put questions to an engine, chunk by chunk, so that an interruption loses at most one chunk and repeats none."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from metadeploy._core import is_abstention
from metadeploy._files import move_into_place, try_lock
from metadeploy.data.checker import is_correct
from metadeploy.data.question import Question
from metadeploy.errors import RunDirError
from metadeploy.evaluation.engines import AS_SHIPPED, Answered, BaseAnswer, Engine, Reply
from metadeploy.evaluation.samples import AtGain, Sample, Samples, ToldAnswer

__all__ = ["CHUNK", "Plan", "gather", "told_question"]

#: Questions of one chunk: what an interruption can cost.
CHUNK: Final = 512

#: Told how much of how much is done, in answers.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked.

    Attributes:
        fingerprint: of everything that the answers depend on.
        questions: with their places in the split.
        gains: others than 1, for the sweep.
        swept: the places of the questions that are asked at those gains too.
        told: whether the base is also asked with the leave to decline.
        whole_answer: whether all of an answer is judged, and not its first sentence; of multiple choice it always is.
    """

    fingerprint: str
    questions: Sequence[tuple[int, Question]]
    gains: tuple[float, ...] = ()
    swept: frozenset[int] = frozenset()
    told: bool = False
    whole_answer: bool = False

    def answers_of(self, place: int) -> int:
        """How many answers the question at a place takes."""
        return 2 + self.told + (len(self.gains) if place in self.swept else 0)


def told_question(question: str, refusal_text: str) -> str:
    """A question with the leave to decline, in the words that the wrapper was trained to decline with."""
    return f"{question}\n\nIf you are not sure of the answer, reply only: {refusal_text}"


def gather(engine: Engine, plan: Plan, path: Path, *, progress: Progress | None = None) -> Samples:
    """Get a sample for each question.

    Args:
        engine: who answers.
        plan: what is asked.
        path: the file of samples. One that was made by the same plan is taken as it is; while it is not complete, its
            whole chunks lie beside it and are gone on with. Those of another plan are replaced.
        progress: called as answers come in.

    Returns:
        The samples, in the plan's order.

    Raises:
        RunDirError: a file of samples cannot be read, or another process is writing it.
    """
    total = sum(plan.answers_of(place) for place, _ in plan.questions)
    if _belongs(path, plan):
        found = Samples.read(path)
        if len(found) == len(plan.questions) and _fit(found.rows, plan):
            if progress is not None:
                progress(total, total)
            return found
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("ab+") as file:  # not emptied: what is whole in it must survive whatever happens
        _refuse_if_busy(file, path)
        samples = _whole_chunks(file, partial, plan)
        while len(samples) < len(plan.questions):
            before = sum(plan.answers_of(sample.index) for sample in samples)
            report = functools.partial(_report, progress, before, total)
            rows = _Chunk(engine, plan, plan.questions[len(samples) : len(samples) + CHUNK], report).samples()
            file.write("".join(sample.to_json() + "\n" for sample in rows).encode())
            file.flush()
            samples += rows
        move_into_place(partial, path)
    return Samples(tuple(samples))


def _report(progress: Progress | None, before: int, total: int, answers: int) -> None:
    if progress is not None:
        progress(before + answers, total)


def _belongs(path: Path, plan: Plan) -> bool:
    """Whether a file holds samples of a plan, by its first line."""
    try:
        with path.open(encoding="utf-8") as file:
            return Sample.from_json(file.readline()).fingerprint == plan.fingerprint
    except (OSError, ValueError):
        return False


def _fit(samples: Sequence[Sample], plan: Plan) -> bool:
    """Whether samples are those of a plan's first questions, each made by that plan."""
    return all(
        (sample.fingerprint, sample.index) == (plan.fingerprint, place)
        for sample, (place, _) in zip(samples, plan.questions, strict=False)
    )


def _refuse_if_busy(file: BinaryIO, path: Path) -> None:
    try:
        try_lock(file.fileno())
    except BlockingIOError:
        raise RunDirError(
            f"samples '{path}': another process is writing them, expected none (hint: wait until it has ended)"
        ) from None


def _whole_chunks(file: BinaryIO, partial: Path, plan: Plan) -> list[Sample]:
    """What an interrupted run left. What it had not finished writing is cut off, and so are samples of another plan."""
    samples: list[Sample] = []
    n_bytes = 0
    if _belongs(partial, plan):
        file.seek(0)
        *lines, _ = file.read().split(b"\n")  # the last one is empty, or cut off
        whole = lines[: len(lines) // CHUNK * CHUNK]
        try:
            samples = [Sample.from_json(line.decode()) for line in whole]
        except ValueError as error:  # JSONFault is one
            raise RunDirError(
                f"samples '{partial}': cannot be read ({error}), expected what metadeploy eval writes (hint: delete "
                "the file)"
            ) from error
        if len(samples) <= len(plan.questions) and _fit(samples, plan):
            n_bytes = sum(len(line) + 1 for line in whole)
        else:
            samples = []
    file.truncate(n_bytes)
    return samples


class _Chunk:
    """Questions that are asked together."""

    def __init__(
        self, engine: Engine, plan: Plan, questions: Sequence[tuple[int, Question]], report: Callable[[int], None]
    ) -> None:
        self._engine = engine
        self._plan = plan
        self._questions = questions
        self._report = report
        self._answers = 0
        self._is_right = functools.partial(is_correct, whole=plan.whole_answer)

    def samples(self) -> list[Sample]:
        swept = [(place, question) for place, question in self._questions if place in self._plan.swept]
        others = [(place, question) for place, question in self._questions if place not in self._plan.swept]
        found = self._ask(swept, (AS_SHIPPED, *self._plan.gains)) | self._ask(others, (AS_SHIPPED,))
        told = self._told() if self._plan.told else {}
        return [self._sample(place, question, found[place], told) for place, question in self._questions]

    def _ask(self, questions: Sequence[tuple[int, Question]], gains: tuple[float, ...]) -> dict[int, Answered]:
        found = {}
        for answered in self._engine.ask([question for _, question in questions], gains=gains):
            found[questions[answered.index][0]] = answered
            self._count(1 + len(gains))
        return found

    def _told(self) -> dict[int, BaseAnswer]:
        refusal = self._engine.refusal_text
        told = [
            dataclasses.replace(question, question=told_question(question.question, refusal))
            for _, question in self._questions
        ]
        found = {}
        for answered in self._engine.ask(told, gains=()):
            found[self._questions[answered.index][0]] = answered.base
            self._count(1)
        return found

    def _count(self, answers: int) -> None:
        self._answers += answers
        self._report(self._answers)

    def _sample(self, place: int, question: Question, answered: Answered, told: dict[int, BaseAnswer]) -> Sample:
        base, (shipped, *others) = answered.base, answered.replies
        return Sample(
            fingerprint=self._plan.fingerprint,
            index=place,
            question=question.question,
            accepted=question.answers,
            category=question.category,
            entity=question.entity,
            base_answer=base.text,
            base_correct=self._is_right(question, base.text),
            base_logprob=sum(base.logprobs) / len(base.logprobs) if base.logprobs else None,
            base_first_logprob=next(iter(base.logprobs), None),
            doubt=shipped.doubt,
            answer=shipped.text,
            answer_correct=self._is_right(question, shipped.text),
            declined_text=shipped.refusal,
            told=self._judged(question, told[place]) if told else None,
            gains=tuple(self._at_gain(question, reply) for reply in others),
        )

    def _judged(self, question: Question, said: BaseAnswer) -> ToldAnswer:
        declined = is_abstention(said.text, self._engine.refusal_text, not said.complete)
        correct = not declined and self._is_right(question, said.text)
        return ToldAnswer(answer=said.text, declined=declined, correct=correct)

    def _at_gain(self, question: Question, reply: Reply) -> AtGain:
        return AtGain(gain=reply.gain, doubt=reply.doubt, answer_correct=self._is_right(question, reply.text))
