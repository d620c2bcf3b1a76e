"""`metadeploy demo` on the command line with the real model. It runs offline: the base must be on this machine."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NO_TORCH = "import sys; sys.modules['torch'] = None; from metadeploy.cli import main; main()"


@pytest.fixture(scope="module")
def cache(base_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that holds only the base."""
    folder = tmp_path_factory.mktemp("cache")
    try:
        (folder / base_gguf.name).hardlink_to(base_gguf)
    except OSError:
        (folder / base_gguf.name).symlink_to(base_gguf)
    return folder


def run(cache: Path, *arguments: str, start: tuple[str, ...] = ("-m", "metadeploy")) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "METADEPLOY_CACHE": str(cache), "PIP_NO_INDEX": "1"}
    environment.pop("METADEPLOY_DEMO_WHEEL", None)
    command = [sys.executable, *start, "demo", *arguments]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == "", "no progress bar without a terminal, and nothing was fetched"
    return result.stdout


@pytest.fixture(scope="module")
def first(cache: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run(cache, "-n", "3", "--seed", "9", "--json"))
    return document


def test_base_and_doubter_answer_real_questions(first: dict[str, Any], cache: Path) -> None:
    assert Path(first["sidecar"]["path"]).parent == cache
    assert [entry["category"] for entry in first["questions"]] == ["first_letter", "base_form", "landmark"]
    assert all(entry["base"]["text"] and entry["doubter"]["text"] for entry in first["questions"])
    assert any(entry["doubter"]["declined"] for entry in first["questions"])
    for entry in first["questions"]:
        assert entry["base"]["doubt"] is None
        assert (entry["doubter"]["doubt"] > 0.5) == entry["doubter"]["declined"]
    assert any(entry["doubter"]["right"] for entry in first["questions"])
    assert not any(entry["base"]["declined"] for entry in first["questions"])


def test_the_second_run_needs_no_torch_and_prints_the_same(first: dict[str, Any], cache: Path) -> None:
    sidecar = Path(first["sidecar"]["path"])
    written = sidecar.stat().st_mtime_ns
    assert json.loads(run(cache, "-n", "3", "--seed", "9", "--json", start=("-c", NO_TORCH))) == first
    assert sidecar.stat().st_mtime_ns == written


def test_an_outdated_sidecar_is_exported_again(first: dict[str, Any], cache: Path) -> None:
    sidecar = Path(first["sidecar"]["path"])
    whole = sidecar.read_bytes()
    sidecar.write_bytes(whole[:-100])
    run(cache, "-n", "1", "--json")
    assert sidecar.read_bytes() == whole


def test_gain_0_is_the_base(first: dict[str, Any], cache: Path) -> None:
    document = json.loads(run(cache, "-n", "3", "--seed", "9", "--gain", "0", "--json"))
    for entry, with_gain in zip(document["questions"], first["questions"], strict=True):
        assert entry["doubter"]["text"] == entry["base"]["text"] == with_gain["base"]["text"]


def test_the_command_that_it_prints_works(cache: Path, llama_meta_generate: Path) -> None:
    (line,) = (line for line in run(cache, "-n", "1").splitlines() if "llama-meta-generate -m" in line)
    program, *arguments = shlex.split(line)
    assert program == "llama-meta-generate"
    result = subprocess.run(
        [llama_meta_generate, *arguments, "-n", "24"], capture_output=True, text=True, timeout=120, check=True
    )
    assert "wolves" in result.stdout
