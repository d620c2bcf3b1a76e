"""`metadeploy verdict` on a tiny base, from questions to a sidecar whose verdicts the runtime gives."""

from __future__ import annotations

import json
import shutil
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
    return write_tiny_run(tmp_path_factory.mktemp("verdict") / "run").path


@pytest.fixture
def verdict(run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run the command in this process and return its stdout and stderr."""

    def call(folder: Path, *arguments: str | Path, code: int = 0) -> tuple[str, str]:
        capfd.readouterr()
        flags = ("--base", run / "base.gguf", "--sidecar", run / "doubter_sidecar.gguf", "--epochs", "3", "-t", "1")
        limits = (
            "--questions",
            run / "questions",
            "--max-new-tokens",
            str(MAX_NEW_TOKENS),
            "--hidden",
            "4",
            "--resamples",
            "20",
        )
        monkeypatch.setattr(sys, "argv", ["metadeploy", "verdict", *map(str, (folder, *flags, *limits, *arguments))])
        monkeypatch.setenv("COLUMNS", "150")
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        assert ended.value.code == code, err
        return out, err

    return call


def test_a_head_from_questions(run: Path, verdict: Command, tmp_path: Path) -> None:
    out, _ = verdict(tmp_path, "--json")
    results = json.loads(out)
    written = json.loads((tmp_path / "verdict.json").read_text())
    assert {key: value for key, value in written.items() if key != "sidecar_sha256"} == results
    assert results["parts"]["test"]["n"] > 20 and 0 < results["parts"]["test"]["right"] < 1
    assert 20 < results["parts"]["train"]["n"] + results["parts"]["calibration"]["n"] <= 42
    assert 0 <= results["test"]["auroc"] <= 1 and 0 <= results["test"]["ece"] <= 1
    sidecar = read_sidecar(tmp_path / "verdict_sidecar.gguf")
    assert sidecar.verdict is not None and sidecar.config == read_sidecar(run / "doubter_sidecar.gguf").config
    config = sidecar.verdict.config
    assert (config.prompt_layers, config.answer_layers, config.n_hidden) in (((1,), (1, 2), 8), ((2,), (1, 2), 8))
    assert config.questions == "questions" and len(config.base_sha256) == 64


def test_answers_are_used_again(run: Path, verdict: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = verdict(tmp_path, "--json")
    first = (tmp_path / "verdict_sidecar.gguf").read_bytes()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a question was asked again")

    monkeypatch.setattr(MetaLlama, "generate_batch", refuse)
    again, _ = verdict(tmp_path, "--json")
    assert json.loads(again) == json.loads(out)
    assert (tmp_path / "verdict_sidecar.gguf").read_bytes() == first


def test_the_table(run: Path, verdict: Command, tmp_path: Path) -> None:
    out, _ = verdict(tmp_path)
    assert "verdict" in out and "logprob_sum" in out and "ECE" in out
    assert str(tmp_path / "verdict_sidecar.gguf") in out
    for name in ("reliability.png", "risk_coverage.png"):
        assert str(tmp_path / name) in out and (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_answers_of_other_settings_are_refused(run: Path, verdict: Command, tmp_path: Path) -> None:
    verdict(tmp_path)
    before = (tmp_path / "verdict_sidecar.gguf").read_bytes()
    _, err = verdict(tmp_path, "--answer-layers", "0", code=1)
    assert "were collected with other settings, another base or other questions" in err
    assert (tmp_path / "verdict_sidecar.gguf").read_bytes() == before


def test_a_damaged_shard_is_refused(run: Path, verdict: Command, tmp_path: Path) -> None:
    verdict(tmp_path)
    shard = tmp_path / "answers" / "val-0000.npz"
    shard.write_bytes(shard.read_bytes()[:200])
    _, err = verdict(tmp_path, code=1)
    assert "val-0000.npz" in err and "delete the file" in err


@pytest.mark.parametrize(
    ("flags", "code", "expected"),
    [
        (("--answer-layers", "x"), 2, "'x', expected layers such as 15,20"),
        (("--answer-layers", "7"), 1, "the model has layers 0 to 2"),
        (("--networks", "9"), 2, "--networks"),
    ],
)
def test_flags_that_cannot_be(
    flags: tuple[str, ...], code: int, expected: str, verdict: Command, tmp_path: Path
) -> None:
    _, err = verdict(tmp_path, *flags, code=code)
    assert expected in " ".join(err.split())
    assert not (tmp_path / "verdict_sidecar.gguf").exists()


def test_questions_that_are_all_wrong(run: Path, verdict: Command, tmp_path: Path) -> None:
    folder = tmp_path / "questions"
    shutil.copytree(run / "questions", folder)
    for path in folder.iterdir():
        rows = [json.loads(line) | {"answers": ["nothing of the sort"]} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, err = verdict(tmp_path / "out", "--questions", folder, code=1)
    assert "the base is right on none of the" in err


def test_verdicts_are_those_of_the_training(run: Path, verdict: Command, tmp_path: Path) -> None:
    """The runtime, which reads the sidecar, gives what the command measured on the test questions."""
    out, _ = verdict(tmp_path, "--json")
    with np.load(tmp_path / "answers" / "test-0000.npz") as shard:
        rows = [json.loads(line) for line in shard["text"].tolist()]
    wanted = {question.question: question for question in load_set(run / "questions")["test"]}
    correct = np.array([is_correct(wanted[row["question"]], row["answer"]) for row in rows])
    with MetaLlama(run / "base.gguf", tmp_path / "verdict_sidecar.gguf", n_threads=1) as llm:
        results = [llm.generate(row["question"], max_tokens=MAX_NEW_TOKENS, inject=False) for row in rows]
    # an answer without a token that a block has processed has no verdict, and is not counted
    p_wrong = np.array([result.verdict.p_wrong for result in results], dtype=float)  # type: ignore[union-attr]
    assert np.isfinite(p_wrong).sum() == json.loads(out)["parts"]["test"]["n"]
    brier = float(np.nanmean((p_wrong - ~correct) ** 2))
    assert brier == pytest.approx(json.loads(out)["test"]["brier"], abs=1e-4)  # rounded by batches of other sizes


def test_the_new_sidecar_never_replaces_the_old_one(run: Path, verdict: Command, tmp_path: Path) -> None:
    old = Path(shutil.copy(run / "doubter_sidecar.gguf", tmp_path / "verdict_sidecar.gguf"))
    before = old.read_bytes()
    _, err = verdict(tmp_path, "--sidecar", old, code=1)
    assert "is the same file as" in " ".join(err.split()) and old.read_bytes() == before
