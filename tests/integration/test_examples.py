"""The Python code in README, docs and examples runs and prints the output that the comments state."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from metadeploy.demo import assets

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(base_gguf: Path, trained_sidecar: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the snippets use."""
    path = tmp_path_factory.mktemp("docs")
    (path / "base.gguf").symlink_to(base_gguf)
    (path / "doubter_sidecar.gguf").symlink_to(trained_sidecar)
    (path / "doubter_checkpoint.pt").symlink_to(assets.CHECKPOINT)
    return path


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def snippets(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_readme_snippets(folder: Path) -> None:
    first, more = snippets("README.md")
    answer, stream = (re.findall(r"print\(.*\) +# (.+)$", code, re.MULTILINE) for code in (first, more))
    assert (len(answer), len(stream)) == (2, 2)
    assert run(folder, "-c", first) == "\n".join([*answer, ""])
    # the streamed answer does not end with a line feed
    assert run(folder, "-c", more) == f"{stream[0]}{stream[1]}\n"


def test_usage_snippet(folder: Path) -> None:
    _, _, runtime, *_ = snippets("docs/usage.md")
    run(folder, "-c", runtime)


def test_asyncio_snippet(folder: Path) -> None:
    *_, in_asyncio, _ = snippets("docs/usage.md")
    assert "wolves" in run(folder, "-c", in_asyncio)


def test_batch_snippet(folder: Path) -> None:
    _, batch, *_ = snippets("docs/usage.md")
    lines = run(folder, "-c", batch).splitlines()
    assert [line.split("? ")[0] for line in lines[:3]] == [
        "What is the plural of wolf",
        "What is the atomic number of xenon",
        "What is 85 times 85",
    ]
    assert [float(line.split(" ", 1)[0]) for line in lines[-3:]] == [0.0, 0.5, 1.0]


def test_modes_snippet(folder: Path) -> None:
    modes, _ = snippets("docs/modes.md")
    run(folder, "-c", modes)


def test_threshold_snippet(folder: Path) -> None:
    threshold, *_ = snippets("docs/usage.md")
    lines = run(folder, "-c", threshold).splitlines()
    assert len(lines) == 3
    assert sum("I'm not confident enough" in line for line in lines) == 2


@pytest.mark.slow
def test_reference_snippet(folder: Path) -> None:
    *_, reference = snippets("docs/usage.md")
    assert run(folder, "-c", reference).strip() == "The plural of wolf is wolves."


def test_quickstart(folder: Path) -> None:
    output = run(folder, str(ROOT / "examples" / "quickstart.py"), "base.gguf", "doubter_sidecar.gguf")
    assert "Doubter  The plural of wolf is wolves.\n" in output
    assert output.count("[declined]") == 1


def test_attention(folder: Path) -> None:
    question = "What is the plural of wolf?"
    output = run(folder, str(ROOT / "examples" / "attention.py"), question, "base.gguf", "doubter_sidecar.gguf")
    rows = re.findall(r"^layer (\d+)  gate [+-]\d\.\d{3}  \|(.{20})\|$", output, re.MULTILINE)
    assert [int(layer) for layer, _ in rows] == list(range(20, 30))
    assert any("█" in cells for _, cells in rows)
