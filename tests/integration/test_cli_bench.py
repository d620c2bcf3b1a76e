"""`metadeploy bench --quick` on the command line."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_base import synthetic_base
from synthetic_doubter import synthetic_doubter

from metadeploy.cli import main
from support.program import TinyCase

Bench = Callable[..., tuple[str, str]]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Bench:
    """Run the command in this process and return its stdout and stderr."""

    def call(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["metadeploy", "bench", "--quick", "-t", "1", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        assert (ended.value.code or 0) == code, err
        return out, err

    return call


def test_everything(bench: Bench, tiny_case: TinyCase, tmp_path: Path) -> None:
    files = (tmp_path / "bench.json", tmp_path / "bench.svg")
    out, _ = bench(
        "--base", tiny_case.base, "--sidecar", tiny_case.sidecar, "--inject-from", "both", "-o", files[0], "--plot",
        files[1], "--json",
    )  # fmt: skip
    report = json.loads(out)
    assert report == json.loads(files[0].read_text(encoding="utf-8"))
    assert files[1].stat().st_size > 5000
    figures = report["figures"]
    assert {figure["part"] for figure in figures} == {"load", "prompt", "turn", "decode", "batch", "refresh", "busy"}
    assert {figure["series"] for figure in figures if figure["part"] == "prompt" and figure["at"] == 48} == {
        "injected everywhere",
        "injected from the last on",
    }
    assert [figure["at"] for figure in figures if figure["part"] == "decode"] == [1, 2]
    for figure in figures:
        assert 0 < figure["value"]["low"] <= figure["value"]["median"] <= figure["value"]["high"]
        assert figure["value"]["n"] == 2
        assert all(side["median"] > 0 for side in figure["sides"].values())
    assert report["conditions"]["sidecar"]["cross_attn_layers"] == [1, 2]
    assert report["conditions"]["threads"] == 1


def test_tables(bench: Bench, tiny_case: TinyCase) -> None:
    files = ("--base", tiny_case.base, "--sidecar", tiny_case.sidecar)
    screen, progress = bench(*files, "--parts", "prompt,load")
    assert "two passes ÷ one, 16 tokens" in screen
    assert "injected ÷ clean" not in screen
    assert "loading the sidecar" in progress
    text, _ = bench(*files, "--parts", "decode", "--markdown")
    assert re.search(r"^\| injected ÷ clean, 2 sequences \| [\d.]+ \|", text, re.MULTILINE)


def test_a_base_without_a_vocabulary(bench: Bench, tmp_path: Path) -> None:
    files = ("--base", synthetic_base(tmp_path, "tiny"), "--sidecar", synthetic_doubter(tmp_path, "tiny"))
    out, _ = bench(*files, "--parts", "decode,batch,refresh")
    assert "injected ÷ clean, 2 sequences" in out
    assert "No figures of generate_batch: the base has no vocabulary." in out
    assert "No figures of a refresh: the base has no vocabulary." in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--base", "{base}"], 2, "give both, or none"),
        (["--base", "nowhere.gguf", "--sidecar", "{sidecar}"], 1, r"base model 'nowhere.gguf': does not exist"),
        (["--base", "{base}", "--sidecar", "nowhere.gguf"], 1, r"sidecar 'nowhere.gguf': does not exist"),
        (["--base", "{base}", "--sidecar", "{other}"], 1, "the wrapper needs 48"),
        (["--base", "{sidecar}", "--sidecar", "{sidecar}"], 1, "is a sidecar, expected the base"),
        (["--base", "{base}", "--sidecar", "{sidecar}", "--parts", "speed"], 1, "expected some of prompt, turn"),
        (["--prompts", "128;512"], 2, "expected whole numbers separated by commas"),
        (["--json", "--markdown"], 2, "either --json or --markdown"),
        (["--plot", "x.pdf"], 1, "suffix is '.pdf', expected .png or .svg"),
        (["-o", "nowhere/bench.json"], 1, r"report 'nowhere/bench.json': its directory does not exist"),
        (["-o", "{folder}"], 1, r"report '.*': is a directory, expected a file's name"),
        (
            ["--base", "{base}", "--sidecar", "{sidecar}", "-o", "{base}"],
            1,
            "report '.*': is the same file as the input",
        ),
        (["--base", "{base}", "--sidecar", "{sidecar}", "-o", "{sidecar}"], 1, "is the same file as the input"),
        (["--base", "{base}", "--sidecar", "{sidecar}", "-o", "x.svg", "--plot", "./x.svg"], 1, "is also the plot's"),
    ],
)
def test_impossible_options(
    arguments: list[str], code: int, message: str, bench: Bench, tiny_case: TinyCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    names = {
        "base": tiny_case.base,
        "sidecar": tiny_case.sidecar,
        "other": tiny_case.for_another_base,
        "folder": tiny_case.base.parent,
    }
    _, err = bench(*(argument.format(**names) for argument in arguments), code=code)
    assert re.search(message, err), err
