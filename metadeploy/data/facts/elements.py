"""Questions about the chemical elements."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from metadeploy.data.facts.category import Category, Fact
from metadeploy.data.facts.element_table import ELEMENTS

__all__ = ["CATEGORIES"]

#: Other spellings and names.
_SPELLINGS: Final = {
    "aluminum": ("aluminium",),
    "cesium": ("caesium",),
    "sulfur": ("sulphur",),
    "tungsten": ("wolfram",),
}


def _elements() -> Iterator[tuple[int, str, tuple[str, ...], str]]:
    """Yield atomic number, symbol, accepted names and entity of each element."""
    words = ELEMENTS.split()
    for number, (symbol, name) in enumerate(zip(words[::2], words[1::2], strict=True), start=1):
        yield number, symbol, (name, *_SPELLINGS.get(name, ())), f"element:{symbol}"


def _symbols(_seed: int) -> Iterator[Fact]:
    for _, symbol, names, entity in _elements():
        yield Fact(names[0], (symbol,), entity)


def _names(_seed: int) -> Iterator[Fact]:
    for _, symbol, names, entity in _elements():
        yield Fact(symbol, names, entity)


def _numbers(_seed: int) -> Iterator[Fact]:
    for number, _, names, entity in _elements():
        yield Fact(names[0], (str(number),), entity)


CATEGORIES: Final = (
    Category(
        "element_symbol",
        "chemical symbols",
        (
            "What is the chemical symbol for {}?",
            "What is the symbol of the element {}?",
            "Which symbol stands for {} in the periodic table?",
        ),
        _symbols,
        repeats=3,
    ),
    Category(
        "element_name",
        "element by its symbol",
        (
            "Which chemical element has the symbol {}?",
            "What element does the chemical symbol {} stand for?",
            "In the periodic table, which element is {}?",
        ),
        _names,
        repeats=3,
    ),
    Category(
        "element_number",
        "atomic numbers",
        ("What is the atomic number of {}?", "How many protons does an atom of {} have?"),
        _numbers,
        repeats=2,
    ),
)
