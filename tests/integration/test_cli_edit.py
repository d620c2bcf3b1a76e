"""`metadeploy edit` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metadeploy._files import sha256
from metadeploy.cli import edit as command
from metadeploy.sidecar import read_sidecar
from metadeploy.sidecar.editing import EDITABLE
from support.command import OTHER_REFUSAL as OTHER
from support.command import run_metadeploy as run
from support.command import write_checkpoint_with_refusal


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint_with_refusal(tmp_path / "run")


@pytest.fixture
def sidecar(checkpoint: Path, tmp_path: Path) -> Path:
    run("export", checkpoint, "-o", tmp_path / "sidecar.gguf")
    return tmp_path / "sidecar.gguf"


def test_in_place_and_into_a_new_file(sidecar: Path, tmp_path: Path) -> None:
    old, new = sidecar.read_bytes(), tmp_path / "new.gguf"
    output = run("edit", sidecar, "--set", "name=N = [bold]x[/bold]", "--set", f"refusal_text={OTHER}", "-o", new)
    assert sidecar.read_bytes() == old
    for part in ("general.name", "N = [bold]x[/bold]", OTHER, "meta_spider.refusal_bias", str(new), sha256(new)):
        assert part in output.stdout
    config = read_sidecar(new).config
    assert (config.refusal_text, config.refusal_token_ids, config.refusal_bias) == (OTHER, None, 0.0)
    assert OTHER in run("inspect", new).stdout
    edited = json.loads(run("edit", sidecar, "--set", "refusal_bias=-1.5", "--unset", "license", "--json").stdout)
    assert edited == {
        "path": str(sidecar),
        "written": True,
        "sha256": sha256(sidecar),
        "changes": [
            {"key": "general.license", "before": "unknown", "after": None},
            {"key": "meta_spider.refusal_bias", "before": -0.5, "after": -1.5},
        ],
    }
    assert read_sidecar(sidecar).config.refusal_bias == -1.5
    assert "nothing changes" in run("edit", sidecar, "--set", "refusal_bias=-1.5").stdout


def test_a_dry_run(sidecar: Path) -> None:
    old = sidecar.read_bytes()
    assert "not written" in run("edit", sidecar, "--set", "license=MIT", "--dry-run").stdout
    edited = json.loads(run("edit", sidecar, "--set", "license=MIT", "--dry-run", "--json").stdout)
    assert (edited["written"], edited["sha256"], len(edited["changes"])) == (False, None, 1)
    assert sidecar.read_bytes() == old


def test_wrong_usage(sidecar: Path) -> None:
    old = sidecar.read_bytes()
    for arguments, fault in (
        ((), "nothing to edit: give --set KEY=VALUE or --unset KEY"),
        (("--set", "license"), "'license' is not KEY=VALUE, such as license=MIT"),
        (("--set", "=MIT"), "'=MIT' is not KEY=VALUE"),
        (("--set", "name=a", "--set", "name=b"), "'name' is given twice"),
        (("--set", "name=a", "--set", "general.name=b"), "'general.name' is given twice"),
        (("--set", "name=a", "--unset", "name"), "'name' is given twice"),
        (("--set", "refusal_txt=a"), "'refusal_txt' cannot be edited"),
        (("--set", "refusal_text=No."), "has one word in its first sentence"),
        (("--unset", "target_layers"), "'target_layers' cannot be edited"),
    ):
        message = run("edit", sidecar, *arguments, code=2)
        assert fault in " ".join(message.stderr.replace("│", " ").split()), message.stderr
    assert sidecar.read_bytes() == old


def test_errors(sidecar: Path, tmp_path: Path) -> None:
    old = sidecar.read_bytes()
    (tmp_path / "other.gguf").write_bytes(b"precious")
    for arguments, fault in (
        ((tmp_path / "absent.gguf", "--set", "name=x"), "absent.gguf': does not exist"),
        ((tmp_path / "other.gguf", "--set", "name=x"), "is not a GGUF file"),
        ((sidecar, "--set", "name=x", "-o", tmp_path / "other.gguf"), "exists already (hint: --force"),
        ((sidecar, "--set", "name=x", "-o", sidecar, "--force"), "is the same file as the input"),
        ((sidecar, "--set", "name=x", "--base", sidecar), "sidecar.gguf"),
        ((sidecar, "--set", "refusal_bias=1000"), "as edited: refusal_bias is 1000"),
    ):
        message = run("edit", *arguments, code=1)
        assert (message.stdout, message.stderr[:7], fault in message.stderr) == ("", "error: ", True), message.stderr
    assert (sidecar.read_bytes(), (tmp_path / "other.gguf").read_bytes()) == (old, b"precious")
    run("edit", sidecar, "--set", "name=x", "-o", tmp_path / "other.gguf", "--force")
    assert read_sidecar(tmp_path / "other.gguf").tensors.keys() == read_sidecar(sidecar).tensors.keys()


def test_help_names_every_key() -> None:
    """The help lists them before the module that defines them is imported."""
    keys = command._KEYS.split("With another")[0]
    listed = [name.strip() for line in keys.splitlines() for name in line.split("[dim]")[0].split(",")]
    assert [name for name in listed if name and " " not in name and "[" not in name] == list(EDITABLE)
    output = run("edit", "--help").stdout
    assert all(name in output for name in EDITABLE)
