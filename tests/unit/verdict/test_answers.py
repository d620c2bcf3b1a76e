from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from metadeploy.data import Question
from metadeploy.errors import RunDirError
from metadeploy.runtime import Request
from metadeploy.runtime.types import AnswerFeatures, SentenceFeatures
from metadeploy.sidecar.verdict import FIGURE_NAMES
from metadeploy.verdict import shards
from metadeploy.verdict.answers import Answers, collect_answers

QUESTIONS = [Question(question=f"Question {number}?", answers=(f"{number}",), category="c") for number in range(10)]


class Scripted:
    """Answers question n with n; odd questions with an error."""

    def __init__(self, scale: float = 1.0) -> None:
        self.asked: list[str] = []
        self.scale = scale

    def generate_batch(self, requests: Sequence[Request], **_: Any) -> Iterator[SimpleNamespace]:
        for index, request in reversed(list(enumerate(requests))):
            assert isinstance(request.prompt, str) and request.inject is False
            self.asked.append(request.prompt)
            number = int(request.prompt.split()[1].rstrip("?"))
            rows = np.full((1, 2), self.scale * number, np.float32)
            sentence = SentenceFeatures(0, 2, 0, 9, rows, 2 * rows, np.full(len(FIGURE_NAMES), number, np.float32))
            sentences = () if number == 7 else (sentence,)
            text = f"It is {number if number % 2 == 0 else 'something else'}."
            result = SimpleNamespace(features=AnswerFeatures(3 * rows, sentences, sentence), text=text)
            yield SimpleNamespace(index=index, error=None, result=result)


def collect(llm: Scripted, folder: Path, questions: Sequence[Question], fingerprint: str = "same") -> Answers:
    return collect_answers(
        llm,  # type: ignore[arg-type]
        questions,
        folder,
        "train",
        prompt_layers=(4,),
        answer_layers=(5,),
        fingerprint=fingerprint,
        max_new_tokens=8,
        whole_answer=False,
        progress=lambda n: None,
    )


@pytest.fixture(autouse=True)
def short_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 4)


def test_answers_are_in_the_order_of_the_questions(tmp_path: Path) -> None:
    answers = collect(Scripted(), tmp_path, QUESTIONS)
    numbers = [0, 1, 2, 3, 4, 5, 6, 8, 9]  # the answer to question 7 has no sentence
    assert answers.means[:, 0, 0].tolist() == numbers
    assert answers.last[:, 0, 0].tolist() == [2 * number for number in numbers]
    assert answers.correct.tolist() == [number % 2 == 0 for number in numbers]
    assert answers.questions == tuple(f"Question {number}?" for number in numbers)
    expected = [[3 * number] * 2 + [number] * (2 + len(FIGURE_NAMES)) for number in numbers]
    assert answers.inputs((4,), (5,)).tolist() == expected
    with pytest.raises(ValueError, match="not in"):
        answers.inputs((4,), (6,))


def test_a_longer_run_asks_only_the_others(tmp_path: Path) -> None:
    collect(Scripted(), tmp_path, QUESTIONS[:6])
    llm = Scripted()
    grown = collect(llm, tmp_path, QUESTIONS)
    assert sorted(llm.asked) == [f"Question {number}?" for number in (6, 7, 8, 9)]
    assert grown.means.tolist() == collect(Scripted(), tmp_path / "fresh", QUESTIONS).means.tolist()
    llm = Scripted()
    assert len(collect(llm, tmp_path, QUESTIONS[:3])) == 3 and not llm.asked
    assert len(collect(llm, tmp_path, QUESTIONS)) == 9 and not llm.asked  # nothing was cut off


def test_activations_beyond_half_precision(tmp_path: Path) -> None:
    assert collect(Scripted(), tmp_path, QUESTIONS[:4]).means.dtype == np.float16
    large = collect(Scripted(1e5), tmp_path / "large", QUESTIONS[:4])
    assert large.means.tolist() == [[[1e5 * number] * 2] for number in range(4)]


@pytest.mark.parametrize("change", ["fingerprint", "question", "cut"])
def test_foreign_or_damaged_shards(change: str, tmp_path: Path) -> None:
    collect(Scripted(), tmp_path, QUESTIONS)
    path = tmp_path / "train-0001.npz"
    questions, fingerprint, expected = list(QUESTIONS), "same", "other settings, another base or other questions"
    if change == "fingerprint":
        fingerprint = "other"
    elif change == "question":
        questions[5] = Question(question="Question 11?", answers=("x",), category="c")
    else:
        path.write_bytes(path.read_bytes()[:300])
        expected = "cannot be read"
    with pytest.raises(RunDirError, match=expected):
        collect(Scripted(), tmp_path, questions, fingerprint)
