"""The check of prose in pre-commit: which text of a file it reads, and which phrases it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PYTHON = '''"""A module anew."""

NAME = "anew"  # anew
TEXT = """
anew
"""


def find() -> None:
    """Find ``anew``, `anew` and anew.

    >>> find()  # anew
    """
'''
CPP = """// anew
const char * a = "// anew"; // anew, with "quotes"
const char * b = R"(anew // anew)";
/* a block
   anew */
const char c = '"'; // `anew`
"""


def lines(root: Path, path: Path) -> list[int]:
    """The lines that the check refuses."""
    script = root / ".ci" / "plain_english.py"
    done = subprocess.run([sys.executable, script, path], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == (1 if done.stdout else 0), done.stderr
    return [int(line.removeprefix(f"{path}:").partition(":")[0]) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("name", "text", "refused"),
    [
        ("code.py", PYTHON, [1, 3, 10]),
        ("code.cpp", CPP, [1, 2, 5]),
        ("page.md", "anew\n`anew`\n", [1]),
    ],
)
def test_what_is_read(repo_root: Path, tmp_path: Path, name: str, text: str, refused: list[int]) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert sorted(lines(repo_root, path)) == refused


def test_which_phrases_are_refused(repo_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    refused = (
        "where there is none",
        "as it is",
        "; for it is late",
        "the sum of these",
        "the colour",
        "quantised",
    )
    allowed = ("the place where models live", "if there is none", "for it", "the color", "one of these", "told: a key")
    path.write_text("\n".join((*refused, *allowed)), encoding="utf-8")
    assert sorted(set(lines(repo_root, path))) == list(range(1, len(refused) + 1))
