"""The files that ship with the demo, and the bases that it can fetch."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from metadeploy.cli.demo import _Key
from metadeploy.data.splits import load_set
from metadeploy.demo import assets
from metadeploy.demo.questions import load_questions


def test_shipped_files_are_small() -> None:
    """Every shipped file, also the trained Doubter, has at most 8 MiB."""
    shipped = {
        path: path.stat().st_size for path in (Path(assets.__file__).parent / "data").rglob("*") if path.is_file()
    }
    assert {*(demo.checkpoint for demo in assets.DEMOS.values()), assets.QUESTIONS} <= shipped.keys()
    assert {path.name: size for path, size in shipped.items() if size > 8 << 20} == {}


DEMOS = pytest.mark.parametrize("demo", assets.DEMOS.values(), ids=assets.DEMOS)


@DEMOS
def test_a_base_is_pinned_to_the_byte(demo: assets.Demo) -> None:
    """Its own hash and those of the wheels, which pip compares, are pinned."""
    base = demo.base
    digests = [base.sha256, *(part.sha256 for part in base.parts)]
    assert all(len(digest) == 64 and set(digest) <= set("0123456789abcdef") for digest in digests)
    assert len(set(digests)) == len(digests)
    assert base.download_size < base.size, "the wheels are compressed"


def test_the_command_line_knows_every_demo() -> None:
    assert get_args(_Key) == tuple(assets.DEMOS)


def test_no_doubter_saw_the_questions_in_training() -> None:
    """All demos ask the same questions. They are from the test split of `facts`; the Doubters saw its train split."""
    assert {question.question for question in load_questions()} <= {q.question for q in load_set("facts")["test"]}
