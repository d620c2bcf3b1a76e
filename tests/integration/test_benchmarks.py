"""The scripts in benchmarks/ run on a tiny base and report their measurements."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import export
import peers
import pytest
import scaling

from support.program import TinyCase

Script = Callable[..., dict[str, Any]]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, repo_root: Path) -> Script:
    """Run a script in this process and return the report that it writes."""
    monkeypatch.setenv("PYTHONPATH", str(repo_root))  # for its child processes

    def call(module: ModuleType, *arguments: str | Path) -> dict[str, Any]:
        output = tmp_path / "report.json"
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", "-o", str(output), *map(str, arguments)])
        module.main()
        report: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
        assert all(figure["value"]["median"] > 0 for figure in report["figures"])
        return report

    return call


def files(case: TinyCase) -> list[str | Path]:
    return ["--base", case.base, "--sidecar", case.sidecar, "-t", "1", "--rounds", "2"]


def labels(report: dict[str, Any]) -> list[str]:
    return [figure["label"] for figure in report["figures"]]


def test_peers(script: Script, tiny_case: TinyCase) -> None:
    report = script(peers, *files(tiny_case), "--without-pytorch", "--prompts", "20", "--tokens", "3")
    assert f"{peers.UNFOLDED} ÷ {peers.OURS}, prompt of 20" in labels(report)
    assert f"{peers.WITHOUT_SIDECAR} ÷ {peers.BARE}, prompt of 20" in labels(report)
    assert f"{peers.UNFOLDED} ÷ {peers.OURS}, prompt of 20 and 3 tokens" in labels(report)


def test_a_peer_that_is_not_installed_is_left_out(
    script: Script, tiny_case: TinyCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    report = script(peers, *files(tiny_case), "--without-pytorch", "--prompts", "20", "--tokens", "0")
    assert not any("llama-cpp-python" in label for label in labels(report))
    assert any("pip install llama-cpp-python==" in note for note in report["notes"])


@pytest.mark.peer
def test_llama_cpp_python(script: Script, tiny_case: TinyCase) -> None:
    pytest.importorskip("llama_cpp", reason="pip install llama-cpp-python, or: nox -s peer")
    few = ("--prompts", "20", "--tokens", "3", "--sequences", "1,2")
    report = script(peers, *files(tiny_case), "--without-pytorch", *few)
    assert f"{peers.PEER} ÷ {peers.BARE}, prompt of 20 and 3 tokens" in labels(report)
    assert labels(report)[-1] == f"generate_batch ÷ {peers.BATCHED}, 2 sequences"


@pytest.mark.slow
def test_pytorch(script: Script, base_gguf: Path, trained_sidecar: Path) -> None:
    report = script(
        peers, "--base", base_gguf, "--sidecar", trained_sidecar, "--rounds", "1", "--prompts", "20", "--tokens", "2"
    )
    assert "PyTorch F32 ÷ runtime F32, prompt of 20" in labels(report)
    assert "PyTorch BF16 ÷ runtime BF16, prompt of 20 and 2 tokens" in labels(report)


def test_scaling(script: Script, tiny_case: TinyCase, tmp_path: Path) -> None:
    plot = tmp_path / "scaling.svg"
    arguments = ("--prompts", "16,24", "--length", "16", "--most-tokens", "4", "--steps", "2", "--plot", plot)
    report = script(scaling, *files(tiny_case), *arguments)
    rows_of_part = {part: [] for part in ("prompt", "layers", "cognitive tokens", "threads")}
    for figure in report["figures"]:
        rows_of_part[figure["part"]].append(figure["at"])
        assert figure["limit"] is not None
    assert rows_of_part["prompt"] == [16, 24]
    assert sorted(set(rows_of_part["layers"])) == [1, 2, 3]
    assert sorted(set(rows_of_part["cognitive tokens"])) == [1, 2, 4]
    assert 1 in rows_of_part["threads"]
    assert plot.stat().st_size > 5000


def test_scaling_refuses_impossible_sizes(script: Script) -> None:
    with pytest.raises(SystemExit, match="error: scaling: parts are speed, expected some of prompt, layers"):
        script(scaling, "--parts", "speed")
    with pytest.raises(SystemExit, match="error: give both --base and --sidecar"):
        script(scaling, "--base", "x.gguf")


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read from /proc")
def test_export(script: Script, tmp_path: Path) -> None:
    report = script(export, "--folder", tmp_path, "--shape", "tiny", "--runs", "2")
    assert labels(report) == ["export, after imports", "peak memory beyond imports"]
    assert [figure["value"]["n"] for figure in report["figures"]] == [2, 2]
    assert not (tmp_path / "synthetic-doubter-tiny-prompt" / "exported.gguf").exists()
