from __future__ import annotations

import json
from pathlib import Path

import pytest

from metadeploy.sidecar.verdict import VerdictConfig
from metadeploy.verdict import calibrate, run
from metadeploy.verdict.settings import CalibrationSettings, VerdictSettings


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    rows = (
        {"question": f"What is {number}?", "answers": [str(number)], "category": "c", "entity": str(number // 2)}
        for number in range(600)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parts(questions: Path, trained_on: str, limit: int | None = None) -> dict[str, set[str]]:
    head = VerdictConfig(prompt_layers=(1,), answer_layers=(1,), hidden_dim=4, n_hidden=2, questions=trained_on)
    settings = CalibrationSettings(sidecar=Path(), base=Path(), output=Path(), questions=str(questions), limit=limit)
    found = calibrate._parts(settings, head)
    return {name: {question.question for question in part} for name, part in found.items()}


def test_questions_of_the_training_are_left_out(questions: Path) -> None:
    found = parts(questions, "mine.jsonl")
    trained = run._parts(VerdictSettings(base=Path(), sidecar=Path(), questions=str(questions)))
    assert trained["train"]
    assert not set.union(*found.values()) & {question.question for question in trained["train"]}


def test_a_set_with_a_split_always_leaves_its_training_out(questions: Path, tmp_path: Path) -> None:
    """The head may have been calibrated for other questions since its training."""
    lines, folder = questions.read_text().splitlines(keepends=True), tmp_path / "folder"
    folder.mkdir()
    for name, part in (("train", lines[:400]), ("val", lines[400:500]), ("test", lines[500:])):
        (folder / f"{name}.jsonl").write_text("".join(part))
    found = parts(folder, "other.jsonl")
    trained = run._parts(VerdictSettings(base=Path(), sidecar=Path(), questions=str(folder)))
    assert not set.union(*found.values()) & {question.question for question in trained["train"]}
    assert len(found["val"]) == len(found["test"]) == 100


def test_other_questions_are_all_used(questions: Path) -> None:
    found = parts(questions, "facts")
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == 600
    assert 0.5 < len(found["calibration"]) / 600 < 0.7
    limited = parts(questions, "facts", limit=20)
    assert all(len(part) == 20 and part <= found[name] for name, part in limited.items())
