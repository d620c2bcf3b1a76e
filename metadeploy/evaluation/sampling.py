"""Asks an engine questions in chunks, so that an interruption loses at most one chunk."""

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
from metadeploy.evaluation.engines import DEFAULT_GAIN, Answered, BaseAnswer, Engine, Reply
from metadeploy.evaluation.samples import AtGain, PromptedAnswer, Sample, Samples

__all__ = ["CHUNK", "SamplePlan", "collect_samples", "with_abstain_instruction"]

#: Questions of one chunk. An interruption can lose this many.
CHUNK: Final = 512

#: Called with the number of finished answers and of all answers.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class SamplePlan:
    """The questions to ask, and how.

    Attributes:
        fingerprint: hash of everything that the answers depend on.
        questions: the questions with their indices in the split.
        gains: other gains than 1, for the sweep.
        swept: indices of the questions to ask at these gains too.
        prompted: whether to ask the prompted baseline too.
        whole_answer: whether the whole answer counts, and not only its first sentence; always so for multiple choice.
    """

    fingerprint: str
    questions: Sequence[tuple[int, Question]]
    gains: tuple[float, ...] = ()
    swept: frozenset[int] = frozenset()
    prompted: bool = False
    whole_answer: bool = False

    def n_answers(self, index: int) -> int:
        """Return the number of answers to the question with this index."""
        return 2 + self.prompted + (len(self.gains) if index in self.swept else 0)


def with_abstain_instruction(question: str, refusal_text: str) -> str:
    """Add an instruction to decline with the trained refusal if the model is not sure."""
    return f"{question}\n\nIf you are not sure of the answer, reply only: {refusal_text}"


def collect_samples(engine: Engine, plan: SamplePlan, path: Path, *, progress: Progress | None = None) -> Samples:
    """Collect a sample for each question.

    Args:
        engine: the engine that answers.
        plan: the questions.
        path: the file of samples. If it is from the same plan, its samples are used. Complete chunks of an interrupted
            run with the same plan are used too; they are in a file next to it. Samples of other plans are replaced.
        progress: called when answers are complete.

    Returns:
        The samples, in the plan's order.

    Raises:
        RunDirError: a file of samples cannot be read, or another process is writing it.
    """
    total = sum(plan.n_answers(index) for index, _ in plan.questions)
    if _has_fingerprint(path, plan):
        stored = Samples.read(path)
        if len(stored) == len(plan.questions) and _match(stored.rows, plan):
            if progress is not None:
                progress(total, total)
            return stored
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("ab+") as file:  # opened without truncation, so that complete chunks are never lost
        _refuse_if_busy(file, path)
        samples = _complete_chunks(file, partial, plan)
        while len(samples) < len(plan.questions):
            n_before = sum(plan.n_answers(sample.index) for sample in samples)
            report = functools.partial(_report, progress, n_before, total)
            rows = _Chunk(engine, plan, plan.questions[len(samples) : len(samples) + CHUNK], report).samples()
            file.write("".join(sample.to_json() + "\n" for sample in rows).encode())
            file.flush()
            samples += rows
        move_into_place(partial, path)
    return Samples(tuple(samples))


def _report(progress: Progress | None, n_before: int, total: int, n_answers: int) -> None:
    if progress is not None:
        progress(n_before + n_answers, total)


def _has_fingerprint(path: Path, plan: SamplePlan) -> bool:
    """Return whether the first sample of a file has the fingerprint of a plan."""
    try:
        with path.open(encoding="utf-8") as file:
            return Sample.from_json(file.readline()).fingerprint == plan.fingerprint
    except (OSError, ValueError):
        return False


def _match(samples: Sequence[Sample], plan: SamplePlan) -> bool:
    """Return whether samples are from a plan, and belong to its first questions."""
    return all(
        (sample.fingerprint, sample.index) == (plan.fingerprint, index)
        for sample, (index, _) in zip(samples, plan.questions, strict=False)
    )


def _refuse_if_busy(file: BinaryIO, path: Path) -> None:
    try:
        try_lock(file.fileno())
    except BlockingIOError:
        raise RunDirError(
            f"samples '{path}': another process is writing them (hint: wait until it has ended)"
        ) from None


def _complete_chunks(file: BinaryIO, partial: Path, plan: SamplePlan) -> list[Sample]:
    """Read the complete chunks of an interrupted run. Truncate everything else, and samples of other plans."""
    samples: list[Sample] = []
    n_bytes = 0
    if _has_fingerprint(partial, plan):
        file.seek(0)
        *lines, _ = file.read().split(b"\n")  # the last one is empty, or incomplete
        complete = lines[: len(lines) // CHUNK * CHUNK]
        try:
            samples = [Sample.from_json(line.decode()) for line in complete]
        except ValueError as error:  # JSONFault is a ValueError
            raise RunDirError(
                f"samples '{partial}': cannot be read ({error}), expected samples of metadeploy eval (hint: delete the "
                "file)"
            ) from error
        if len(samples) <= len(plan.questions) and _match(samples, plan):
            n_bytes = sum(len(line) + 1 for line in complete)
        else:
            samples = []
    file.truncate(n_bytes)
    return samples


class _Chunk:
    """Asks the questions of one chunk."""

    def __init__(
        self, engine: Engine, plan: SamplePlan, questions: Sequence[tuple[int, Question]], report: Callable[[int], None]
    ) -> None:
        self._engine = engine
        self._plan = plan
        self._questions = questions
        self._report = report
        self._n_answers = 0
        self._is_right = functools.partial(is_correct, whole=plan.whole_answer)

    def samples(self) -> list[Sample]:
        in_sweep = [item for item in self._questions if item[0] in self._plan.swept]
        not_in_sweep = [item for item in self._questions if item[0] not in self._plan.swept]
        answers = self._ask(in_sweep, (DEFAULT_GAIN, *self._plan.gains)) | self._ask(not_in_sweep, (DEFAULT_GAIN,))
        prompted = self._ask_prompted() if self._plan.prompted else {}
        return [
            self._sample(index, question, answers[index], prompted.get(index)) for index, question in self._questions
        ]

    def _ask(self, questions: Sequence[tuple[int, Question]], gains: tuple[float, ...]) -> dict[int, Answered]:
        answers = {}
        for answered in self._engine.ask([question for _, question in questions], gains=gains):
            answers[questions[answered.index][0]] = answered
            self._count(1 + len(gains))
        return answers

    def _ask_prompted(self) -> dict[int, BaseAnswer]:
        refusal = self._engine.refusal_text
        questions = [
            dataclasses.replace(question, question=with_abstain_instruction(question.question, refusal))
            for _, question in self._questions
        ]
        answers = {}
        for answered in self._engine.ask(questions, gains=()):
            answers[self._questions[answered.index][0]] = answered.base
            self._count(1)
        return answers

    def _count(self, n_answers: int) -> None:
        self._n_answers += n_answers
        self._report(self._n_answers)

    def _sample(self, index: int, question: Question, answered: Answered, prompted: BaseAnswer | None) -> Sample:
        base, (reply, *sweep_replies) = answered.base, answered.replies
        return Sample(
            fingerprint=self._plan.fingerprint,
            index=index,
            question=question.question,
            accepted=question.answers,
            category=question.category,
            entity=question.entity,
            base_answer=base.text,
            base_correct=self._is_right(question, base.text),
            base_logprob=sum(base.logprobs) / len(base.logprobs) if base.logprobs else None,
            base_first_logprob=next(iter(base.logprobs), None),
            doubt=reply.doubt,
            answer=reply.text,
            answer_correct=self._is_right(question, reply.text),
            declined_text=reply.refusal,
            told=None if prompted is None else self._prompted_answer(question, prompted),
            gains=tuple(self._at_gain(question, sweep_reply) for sweep_reply in sweep_replies),
        )

    def _prompted_answer(self, question: Question, answer: BaseAnswer) -> PromptedAnswer:
        declined = is_abstention(answer.text, self._engine.refusal_text, not answer.complete)
        correct = not declined and self._is_right(question, answer.text)
        return PromptedAnswer(answer=answer.text, declined=declined, correct=correct)

    def _at_gain(self, question: Question, reply: Reply) -> AtGain:
        return AtGain(gain=reply.gain, doubt=reply.doubt, answer_correct=self._is_right(question, reply.text))
