"""`metadeploy calibrate` on a tiny base: a head that was trained for it gets another calibration."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from metadeploy import MetaLlama
from metadeploy.cli import main
from metadeploy.data import is_correct, load_set
from metadeploy.sidecar import read_sidecar
from support.tiny_run import MAX_NEW_TOKENS, write_tiny_run

Command = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a sidecar with a head (trained on the set ``questions``), and the same questions in ``mine.jsonl``."""
    path = write_tiny_run(tmp_path_factory.mktemp("calibrate") / "run").path
    (path / "mine.jsonl").write_text("".join(file.read_text() for file in sorted((path / "questions").iterdir())))
    return path


@pytest.fixture
def metadeploy(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process and return its stdout and stderr."""

    def call(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
        capfd.readouterr()
        tokens = ("--max-new-tokens", str(MAX_NEW_TOKENS), "-t", "1")
        monkeypatch.setattr(sys, "argv", ["metadeploy", *map(str, (*arguments, *tokens))])
        monkeypatch.setenv("COLUMNS", "150")
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        assert ended.value.code == code, err
        return out, " ".join(err.split())

    return call


@pytest.fixture
def judged(run: Path, metadeploy: Command) -> Path:
    path = run / "v" / "verdict_sidecar.gguf"
    if not path.exists():
        flags = ("--questions", run / "questions", "--epochs", "3", "--hidden", "4", "--resamples", "5")
        metadeploy(
            "verdict", path.parent, "--base", run / "base.gguf", "--sidecar", run / "doubter_sidecar.gguf", *flags
        )
    return path


@pytest.fixture
def calibrate(run: Path, judged: Path, metadeploy: Command) -> Command:
    def call(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
        return metadeploy(
            "calibrate", judged, "--base", run / "base.gguf", "--questions", run / "mine.jsonl", *arguments, code=code
        )

    return call


def test_the_probabilities_fit_the_questions(run: Path, judged: Path, calibrate: Command, tmp_path: Path) -> None:
    out, _ = calibrate("-o", tmp_path / "new.gguf", "--json")
    results = json.loads(out)
    written = json.loads((tmp_path / "new.calibration.json").read_text())
    assert {key: value for key, value in written.items() if key != "sidecar_sha256"} == results
    before, after = read_sidecar(judged).verdict, read_sidecar(tmp_path / "new.gguf").verdict
    assert before is not None and after is not None
    assert all((after.tensors[name] == before.tensors[name]).all() for name in before.tensors)
    assert (after.config.slope, after.config.intercept) != (before.config.slope, before.config.intercept)
    assert (after.config.questions, after.config.base_sha256) == ("mine.jsonl", results["base_sha256"])
    assert sum(part["n"] for part in results["parts"].values()) > 60  # not only what the training left
    assert results["before"]["auroc"] == pytest.approx(results["after"]["auroc"])


def test_the_runtime_gives_the_new_probabilities(run: Path, calibrate: Command, tmp_path: Path) -> None:
    out, _ = calibrate("-o", tmp_path / "new.gguf", "--json")
    with np.load(tmp_path / "new.answers" / "test-0000.npz") as shard:
        rows = [json.loads(line) for line in shard["text"].tolist()]
    wanted = {question.question: question for part in load_set(run / "mine.jsonl").values() for question in part}
    correct = np.array([is_correct(wanted[row["question"]], row["answer"]) for row in rows])
    with MetaLlama(run / "base.gguf", tmp_path / "new.gguf", n_threads=1) as llm:
        results = [llm.generate(row["question"], max_tokens=MAX_NEW_TOKENS, inject=False) for row in rows]
    p_wrong = np.array([result.verdict.p_wrong for result in results], dtype=float)  # type: ignore[union-attr]
    assert np.isfinite(p_wrong).sum() == json.loads(out)["parts"]["test"]["n"]
    brier = float(np.nanmean((p_wrong - ~correct) ** 2))
    assert brier == pytest.approx(json.loads(out)["after"]["brier"], abs=1e-4)  # rounded by batches of other sizes


def test_answers_are_used_again(calibrate: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = calibrate("-o", tmp_path / "new.gguf", "--json")
    first = (tmp_path / "new.gguf").read_bytes()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a question was asked again")

    monkeypatch.setattr(MetaLlama, "generate_batch", refuse)
    assert calibrate("-o", tmp_path / "new.gguf", "--json")[0] == out
    assert (tmp_path / "new.gguf").read_bytes() == first


def test_the_printed_summary(judged: Path, calibrate: Command) -> None:
    out, _ = calibrate()
    assert "ECE" in out and "AUROC" in out and "error rate can be guaranteed" in out
    assert str(judged.with_name("verdict_sidecar.calibrated.gguf")) in out


def test_a_sidecar_without_a_head(run: Path, metadeploy: Command, tmp_path: Path) -> None:
    _, err = metadeploy("calibrate", run / "doubter_sidecar.gguf", "--base", run / "base.gguf", code=1)
    assert "has no verdict head, expected one (hint: metadeploy verdict trains one)" in err


@pytest.mark.parametrize("target", ["base", "sidecar"])
def test_inputs_are_never_replaced(target: str, run: Path, judged: Path, calibrate: Command) -> None:
    output = judged if target == "sidecar" else run / "base.gguf"
    before = output.read_bytes()
    _, err = calibrate("-o", output, code=1)
    assert "is the same file as" in err and output.read_bytes() == before


def test_questions_that_are_all_wrong(run: Path, calibrate: Command, tmp_path: Path) -> None:
    rows = [
        json.loads(line) | {"answers": ["nothing of the sort"]}
        for line in (run / "mine.jsonl").read_text().splitlines()
    ]
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, err = calibrate("-o", tmp_path / "new.gguf", "--questions", wrong, code=1)
    assert "calibrate: the base is right on none of the" in err and not (tmp_path / "new.gguf").exists()
