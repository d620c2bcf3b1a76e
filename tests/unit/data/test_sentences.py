"""Sentences: the runtime ends them where the checker does, which judges first sentences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metadeploy import _core
from metadeploy.data.checker import first_sentence

PIECES = (
    "St",
    "Mt. ",
    "U.S",
    ".",
    "!",
    "?",
    '"',
    "'",
    "”",
    "’",
    ")",
    "」",
    "。",
    "？",
    "\n",
    " ",
    "  ",
    "1",
    "3.5",
    "é",
    "Paris",
)


def sentences(text: str) -> list[str]:
    raw = text.encode()
    return [raw[begin:end].decode() for begin, end in _core.sentences(raw)]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_the_runtime_ends_sentences_where_the_checker_does(text: str) -> None:
    rest, expected = text.strip(), []
    while rest:
        expected.append(first_sentence(rest))
        rest = rest[len(expected[-1]) :].strip()
    assert sentences(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paris. It is large.", ["Paris.", "It is large."]),
        ("St. John's is in the U.S. state", ["St. John's is in the U.S. state"]),
        ('He said "no." Then he left', ['He said "no."', "Then he left"]),
        ("巴黎。法国", ["巴黎。", "法国"]),
    ],
)
def test_examples(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected
