"""`metadeploy card` on the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from support.card_run import drawn_samples, results_of, write_run

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
#: Runs the command as if the extras for training were not installed.
NO_TORCH = "import sys; sys.modules['torch'] = None; from metadeploy.cli import main; main()"


def card(*arguments: str | Path, code: int = 0, start: tuple[str, ...] = ("-c", NO_TORCH)) -> tuple[str, str]:
    command = [sys.executable, *start, "card", *map(str, arguments)]
    result = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, encoding="utf-8", timeout=120, check=False
    )
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout, result.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", results_of(drawn_samples(30)), model_name="models/tiny.gguf").path


def test_a_card(folder: Path) -> None:
    stdout, stderr = card(folder)
    assert stdout == f"{folder / 'README.md'}\n"
    assert stderr.splitlines() == [
        "note: the base is a file, not a hub id: the card does not link it (--base-model owner/name)",
        "note: no license is named (--license MIT)",
    ]
    # a card without edits is replaced
    stdout, stderr = card(folder, "--license", "MIT", "--name", "My Doubter", "--base-model", "owner/Tiny-1B")
    assert stderr == ""
    model_card = ModelCard.load(folder / "README.md")
    assert (model_card.data.license, model_card.data.base_model, model_card.data.model_name) == (
        "mit",
        "owner/Tiny-1B",
        "My Doubter",
    )
    assert model_card.text.strip().startswith("# My Doubter\n")


def test_an_edited_card_is_not_replaced(folder: Path) -> None:
    (folder / "README.md").write_text("mine\n", encoding="utf-8")
    stdout, stderr = card(folder, code=1)
    assert stdout == ""
    assert "--force replaces it" in stderr
    assert (folder / "README.md").read_text(encoding="utf-8") == "mine\n"
    card(folder, "-o", folder / "other.md")
    card(folder, "--force")
    assert (folder / "README.md").read_bytes() == (folder / "other.md").read_bytes()


def test_its_inputs_are_not_overwritten(folder: Path) -> None:
    for name in (
        "run.json",
        "doubter_checkpoint.pt",
        next((folder / "eval").glob("results_*.json")).relative_to(folder),
    ):
        before = (folder / name).read_bytes()
        _, stderr = card(folder, "-o", folder / name, "--force", code=1)
        assert f"card '{folder / name}': is the same file as the input '{folder / name}'" in stderr
        assert (folder / name).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "Missing argument 'RUN_DIR'"),
        (("absent",), 1, "has no run.json, expected one (hint: start with metadeploy collect)"),
        (("RUN", "--base-model", "no id"), 1, "--base-model is 'no id', expected a hub id such as owner/name"),
        (("RUN", "-o", "RUN"), 2, "is a directory"),
    ],
)
def test_usage_errors(folder: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    resolved = [str(folder) if argument == "RUN" else argument for argument in arguments]
    stdout, stderr = card(*resolved, code=code)
    assert stdout == ""
    assert message in stderr
    assert not (folder / "README.md").exists()


def test_help_teaches() -> None:
    stdout, _ = card("--help")
    for part in ("Examples", "metadeploy card runs/a --license MIT", "--base-model", "--force"):
        assert part in stdout
