"""Asking questions in chunks: the requests, the content of a sample, and the cost of an interruption."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from metadeploy.data.question import Question
from metadeploy.errors import RunDirError
from metadeploy.evaluation import sampling as module
from metadeploy.evaluation.engines import Answered, BaseAnswer, Reply
from metadeploy.evaluation.samples import AtGain, PromptedAnswer, Sample, Samples, declines
from metadeploy.evaluation.sampling import SamplePlan, collect_samples, with_abstain_instruction

REFUSAL = "I'm not confident enough to answer this question accurately."


class FakeEngine:
    """Knows the even numbers; declines odd ones if the prompt allows it to decline."""

    refusal_text = REFUSAL

    def __init__(self, *, dies_after: int | None = None) -> None:
        self.asked: list[tuple[str, tuple[float, ...]]] = []
        self._dies_after = dies_after

    def close(self) -> None: ...

    def ask(self, questions: Sequence[Question], *, gains: Sequence[float]) -> Iterator[Answered]:
        for index in reversed(range(len(questions))):  # in any order
            if self._dies_after is not None and len(self.asked) == self._dies_after:
                raise KeyboardInterrupt
            question = questions[index].question
            self.asked.append((question, tuple(gains)))
            number = int(question.split()[0])
            known = number % 2 == 0
            text = f"{number}." if known else REFUSAL if "not sure" in question else "None."
            replies = (Reply(gain, self.doubt(number, gain), text, REFUSAL if not known else None) for gain in gains)
            yield Answered(index, BaseAnswer(text, (-1.0, -0.5), True), tuple(replies))

    @staticmethod
    def doubt(number: int, gain: float) -> float:
        return gain * (0.9 if number % 2 else 0.1) / 2


def plan(count: int, fingerprint: str = "one", *, prompted: bool = True) -> SamplePlan:
    questions = [(place, Question(f"{place} ?", (str(place),), ["even", "odd"][place % 2])) for place in range(count)]
    return SamplePlan(
        fingerprint=fingerprint,
        questions=questions,
        gains=(0.0, 2.0),
        swept=frozenset(range(0, count, 3)),
        prompted=prompted,
    )


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)


def test_content_of_a_sample(tmp_path: Path) -> None:
    samples = collect_samples(FakeEngine(), plan(2), tmp_path / "samples.jsonl")
    known, unknown = samples
    assert known == Sample(
        fingerprint="one",
        index=0,
        question="0 ?",
        accepted=("0",),
        category="even",
        entity="",
        base_answer="0.",
        base_correct=True,
        base_logprob=-0.75,
        base_first_logprob=-1.0,
        doubt=0.05,
        answer="0.",
        answer_correct=True,
        declined_text=None,
        told=PromptedAnswer(answer="0.", declined=False, correct=True),
        gains=(
            AtGain(gain=0.0, doubt=0.0, answer_correct=True),
            AtGain(gain=2.0, doubt=0.1, answer_correct=True),
        ),
    )
    assert (unknown.base_correct, unknown.answer_correct, unknown.doubt) == (False, False, 0.45)
    assert unknown.declined_text == REFUSAL
    assert unknown.told == PromptedAnswer(answer=REFUSAL, declined=True, correct=False)
    assert unknown.gains == ()  # not in the sweep
    assert Samples.read(tmp_path / "samples.jsonl") == samples


def test_every_question_is_asked_once(tmp_path: Path) -> None:
    engine = FakeEngine()
    progress: list[tuple[int, int]] = []
    collect_samples(engine, plan(10), tmp_path / "samples.jsonl", progress=lambda *at: progress.append(at))
    swept, others = (1.0, 0.0, 2.0), (1.0,)
    expected = [(f"{place} ?", others if place % 3 else swept) for place in range(10)]
    expected += [(with_abstain_instruction(f"{place} ?", REFUSAL), ()) for place in range(10)]
    assert sorted(engine.asked) == sorted(expected)
    # 2 for the base and its Doubter, 1 for the base that may decline, 2 more for 4 swept questions
    assert progress[-1] == (10 * 3 + 4 * 2, 38)
    assert [at for at, _ in progress] == sorted({at for at, _ in progress})


class Wavering(FakeEngine):
    """Chooses a letter, then names another one."""

    def __init__(self) -> None:
        super().__init__()
        self.choices: list[tuple[str, ...] | None] = []

    def ask(self, questions: Sequence[Question], *, gains: Sequence[float]) -> Iterator[Answered]:
        for index, question in enumerate(questions):
            self.choices.append(question.choices)
            replies = (Reply(gain, 0.1, "B. No wait, C", None) for gain in gains)
            yield Answered(index, BaseAnswer("B. No wait, C", (-1.0,), True), tuple(replies))


def test_a_choice_is_labeled_as_a_whole(tmp_path: Path) -> None:
    choices = ("one", "two", "three")
    questions = [(place, Question(f"{place}?", ("B",), "any", choices=choices)) for place in range(2)]
    engine = Wavering()
    samples = collect_samples(
        engine, SamplePlan(fingerprint="f", questions=questions, prompted=True), tmp_path / "samples.jsonl"
    )
    for sample in samples:
        assert sample.told == PromptedAnswer(answer="B. No wait, C", declined=False, correct=False)
        assert (sample.base_correct, sample.answer_correct) == (False, False)
    assert engine.choices == [choices] * 4, "the prompted baseline must also choose"


def test_without_the_prompted_baseline(tmp_path: Path) -> None:
    engine = FakeEngine()
    samples = collect_samples(engine, plan(3, prompted=False), tmp_path / "samples.jsonl")
    assert len(engine.asked) == 3
    assert [sample.told for sample in samples] == [None] * 3


@pytest.mark.parametrize("dies_after", [0, 7, 8, 9, 17])
def test_an_interrupted_evaluation_resumes(dies_after: int, tmp_path: Path) -> None:
    """At most one chunk is lost: 4 questions, each asked twice."""
    path, whole = tmp_path / "samples.jsonl", tmp_path / "whole.jsonl"
    collect_samples(FakeEngine(), plan(10), whole)
    with pytest.raises(KeyboardInterrupt):
        collect_samples(FakeEngine(dies_after=dies_after), plan(10), path)
    assert not path.exists()
    engine = FakeEngine()
    progress: list[int] = []
    collect_samples(engine, plan(10), path, progress=lambda at, _: progress.append(at))
    assert path.read_bytes() == whole.read_bytes()
    assert len(engine.asked) == 20 - dies_after // 8 * 8
    assert set(tmp_path.iterdir()) == {path, whole}  # no other file is left


def test_a_line_that_was_cut_off_is_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    collect_samples(FakeEngine(), plan(10), path)
    whole = path.read_bytes()
    path.unlink()
    path.with_name(".samples.jsonl.partial").write_bytes(whole[:-30])  # inside the tenth line: two chunks are complete
    engine = FakeEngine()
    collect_samples(engine, plan(10), path)
    assert path.read_bytes() == whole
    assert len(engine.asked) == 4


def test_complete_lines_survive_an_immediate_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run must not empty the file before it has written the old content again."""
    path = tmp_path / "samples.jsonl"
    with pytest.raises(KeyboardInterrupt):
        collect_samples(FakeEngine(dies_after=17), plan(10), path)
    partial = path.with_name(".samples.jsonl.partial")
    content = partial.read_bytes()
    assert content.count(b"\n") == 8
    with pytest.raises(KeyboardInterrupt):
        collect_samples(FakeEngine(dies_after=0), plan(10), path)
    assert partial.read_bytes() == content

    def killed(*_: object) -> list[Sample]:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_complete_chunks", killed)
    with pytest.raises(KeyboardInterrupt):
        collect_samples(FakeEngine(), plan(10), path)
    assert partial.read_bytes() == content


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX locks")
def test_two_at_once_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"

    class Nested(FakeEngine):
        def ask(self, questions: Sequence[Question], *, gains: Sequence[float]) -> Iterator[Answered]:
            with pytest.raises(RunDirError, match=r"samples '.*': another process is writing them"):
                collect_samples(FakeEngine(), plan(10), path)
            return super().ask(questions, gains=gains)

    assert len(collect_samples(Nested(), plan(10), path)) == 10
    assert [path.name for path in tmp_path.iterdir()] == ["samples.jsonl"]


@pytest.mark.parametrize("name", ["samples.jsonl", ".samples.jsonl.partial"])
def test_lines_of_another_plan_are_not_taken_for_this_one(name: str, tmp_path: Path) -> None:
    """Every line is checked, not only the first."""
    path = tmp_path / "samples.jsonl"
    collect_samples(FakeEngine(), plan(10), path)
    whole = path.read_bytes()
    path.unlink()
    mixed = whole.splitlines(keepends=True)
    mixed[1] = mixed[1].replace(b'"one"', b'"two"')
    (tmp_path / name).write_bytes(b"".join(mixed))
    engine = FakeEngine()
    collect_samples(engine, plan(10), path)
    assert len(engine.asked) == 20
    assert path.read_bytes() == whole


def test_stored_answers_are_reused(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    samples = collect_samples(FakeEngine(), plan(6), path)
    engine = FakeEngine()
    progress: list[tuple[int, int]] = []
    assert collect_samples(engine, plan(6), path, progress=lambda *at: progress.append(at)) == samples
    assert engine.asked == []
    assert progress == [(22, 22)]


def test_samples_of_another_plan_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    collect_samples(FakeEngine(), plan(6), path)
    with pytest.raises(KeyboardInterrupt):
        collect_samples(FakeEngine(dies_after=9), plan(6, "two"), path)
    assert {sample.fingerprint for sample in Samples.read(path)} == {"one"}  # until the other lines are complete
    engine = FakeEngine()
    assert {sample.fingerprint for sample in collect_samples(engine, plan(6, "three"), path)} == {"three"}
    assert len(engine.asked) == 12


@pytest.mark.parametrize("line", ['{"index": 1}', "3", "[]", "{", '{"told": null, "accepted": 1, "gains": []}'])
def test_a_malformed_file_is_named_and_replaced(line: str, tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(RunDirError, match=r"samples '.*samples\.jsonl': line 1.*hint: delete"):
        Samples.read(path)
    assert len(collect_samples(FakeEngine(), plan(2), path)) == 2  # it is replaced


@pytest.mark.parametrize(
    ("doubt", "threshold", "expected"),
    [(0.5, 0.5, True), (0.49, 0.5, False), (0.0, 0.0, True), (1.0, 1.0, False), (0.999, 1.0, False)],
)
def test_declined_answers(doubt: float, threshold: float, expected: bool) -> None:
    assert declines(doubt, threshold) is expected
