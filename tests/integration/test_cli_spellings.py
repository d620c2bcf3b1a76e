"""Commands of meta-spider framework users: its spellings of export, and two scripts with the same name."""

from __future__ import annotations

from pathlib import Path

import pytest

from metadeploy.sidecar import DEFAULT_REFUSAL_TEXT, read_sidecar
from support.command import OTHER_REFUSAL as OTHER
from support.command import ROOT, write_checkpoint_with_refusal
from support.command import run_metadeploy as run


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint_with_refusal(tmp_path / "run")


def test_the_frameworks_other_spellings(checkpoint: Path, tmp_path: Path) -> None:
    for number, arguments in enumerate(
        (
            (checkpoint.parent,),
            ("--run-dir", checkpoint.parent),
            ("--checkpoint", checkpoint),
            ("--checkpoint", checkpoint, "--target-layers", "0", "1", "2", "--cross-attn-layers", "1", "2"),
            ("--target-layers", "0,1", "2", "--hidden-dim", "32", "--run-dir", checkpoint.parent),
        )
    ):
        target = tmp_path / f"{number}.gguf"
        run("export", *arguments, "--out", target)
        assert target.read_bytes() == (tmp_path / "0.gguf").read_bytes()
    run("export", "--run-dir", checkpoint.parent)
    assert (checkpoint.parent / "doubter_sidecar.gguf").read_bytes() == (tmp_path / "0.gguf").read_bytes()


def test_one_checkpoint_in_one_way(checkpoint: Path, tmp_path: Path) -> None:
    for arguments, fault in (
        ((), "is missing: name a checkpoint or a run directory"),
        ((checkpoint, "--checkpoint", checkpoint), "are given, expected one checkpoint or run directory"),
        (("--run-dir", checkpoint.parent, "--checkpoint", checkpoint), "are given, expected one"),
        (("--run-dir", checkpoint), "is not a directory"),
        (("--run-dir", tmp_path / "absent"), "is not a directory"),
    ):
        message = run("export", *arguments, code=2)
        assert fault in " ".join(message.stderr.replace("│", " ").split()), message.stderr
    assert "absent.pt' does not exist" in run("export", "--checkpoint", tmp_path / "absent.pt", code=1).stderr.replace(
        "':", "'"
    )


def test_export_with_a_refusal_text(checkpoint: Path, tmp_path: Path) -> None:
    """The checkpoint's tokens and bias belong to its own text."""
    target = tmp_path / "out.gguf"
    output = run("export", checkpoint, "-o", target, "--refusal-text", OTHER).stdout
    assert OTHER in output
    config = read_sidecar(target).config
    assert (config.refusal_text, config.refusal_token_ids, config.refusal_bias) == (OTHER, None, 0.0)
    run("export", checkpoint, "-o", target, "--force", "--refusal-text", DEFAULT_REFUSAL_TEXT)
    config = read_sidecar(target).config
    assert (config.refusal_text, config.refusal_token_ids, config.refusal_bias) == (DEFAULT_REFUSAL_TEXT, (7, 8), -0.5)
    old = target.read_bytes()
    for text in ("No.", "", "No. I do not know that."):
        message = run("export", checkpoint, "-o", target, "--force", "--refusal-text", text, code=2)
        assert "in its first sentence" in " ".join(message.stderr.replace("│", " ").split())
    assert target.read_bytes() == old


def test_which_metadeploy_this_is(tmp_path: Path) -> None:
    """The framework also installs a script of that name. `python -m metadeploy` always runs this project's."""
    output = run("--version", cwd=tmp_path).stdout
    assert output.startswith("metadeploy ")
    assert "Doubters beside GGUF models" in output
    assert "python -m metadeploy" in output
    assert str(ROOT / "metadeploy") in output
    assert run("edit", "--help", cwd=tmp_path).stdout.count("python -m metadeploy edit") == 1
