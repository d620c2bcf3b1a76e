"""Questions about numbers: arithmetic, and how numbers are written and follow each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Final

from metadeploy.data.drawing import draw
from metadeploy.data.facts.category import Category, Fact

if TYPE_CHECKING:
    import inflect

__all__ = ["CATEGORIES"]

#: So many pairs are drawn for each kind of sum; a category takes what it needs.
_DRAWS: Final = 6_000


def _log_uniform(low: int, high: int, at: float) -> int:
    """A whole number from ``low`` to ``high``: all orders of magnitude are equally likely for ``at`` in 0 ≤ x < 1."""
    return int(low * ((high + 1) / low) ** at)


def _pairs(seed: int, salt: str, low: int, high: int) -> Iterator[tuple[int, int]]:
    """Pairs of numbers with sizes spread evenly on a log scale, each unordered pair once."""
    seen = set()
    for turn in range(_DRAWS):
        one, other = (_log_uniform(low, high, draw(seed, salt, which, str(turn))) for which in ("one", "other"))
        if frozenset((one, other)) not in seen:
            seen.add(frozenset((one, other)))
            yield one, other


def _entity(one: int, other: int) -> str:
    return f"pair:{min(one, other)},{max(one, other)}"


def _fame(*numbers: int) -> float:
    """The smaller the better known."""
    return -math.log(math.prod(numbers))


def _arithmetic(sign: str, result: Callable[[int, int], int], low: int, high: int) -> Callable[[int], Iterator[Fact]]:
    """A builder of sums and their like."""

    def build(seed: int) -> Iterator[Fact]:
        for one, other in _pairs(seed, sign, low, high):
            if sign == "-" and one < other:
                one, other = other, one
            answers = (str(result(one, other)),)
            yield Fact(f"{one} {sign} {other}", answers, _entity(one, other), _fame(one, other))

    return build


def _quotients(seed: int) -> Iterator[Fact]:
    for one, other in _pairs(seed, "/", 2, 60):
        yield Fact(f"{one * other} divided by {one}", (str(other),), _entity(one, other), _fame(one, other))


def _larger(seed: int) -> Iterator[Fact]:
    for one, other in _pairs(seed, "larger", 1, 9_999):
        if one != other:
            yield Fact(f"{one} or {other}", (str(max(one, other)),), _entity(one, other), _fame(one, other))


@cache
def _inflect() -> inflect.engine:
    import inflect

    return inflect.engine()


def _in_words(number: int) -> str:
    return str(_inflect().number_to_words(str(number)))


def _singles(seed: int, salt: str, low: int, high: int) -> Iterator[int]:
    """Different numbers with sizes spread evenly on a log scale."""
    drawn = (_log_uniform(low, high, draw(seed, salt, str(turn))) for turn in range(_DRAWS))
    return iter(dict.fromkeys(drawn))


def _digits(seed: int) -> Iterator[Fact]:
    for number in _singles(seed, "digits", 1, 9_999):
        yield Fact(_in_words(number), (str(number),), f"number:{number}", _fame(number))


def _words(seed: int) -> Iterator[Fact]:
    for number in _singles(seed, "words", 1, 9_999):
        yield Fact(str(number), (_in_words(number),), f"number:{number}", _fame(number))


def _ordinals(seed: int) -> Iterator[Fact]:
    for number in _singles(seed, "ordinals", 1, 999):
        answers = (str(_inflect().ordinal(str(number))), str(_inflect().ordinal(_in_words(number))))
        yield Fact(str(number), answers, f"number:{number}", _fame(number))


def _next(seed: int) -> Iterator[Fact]:
    for number, (step, words) in itertools.product(_singles(seed, "next", 2, 99_999), ((1, "after"), (-1, "before"))):
        yield Fact(f"{words} {number}", (str(number + step),), f"number:{number}", _fame(number))


CATEGORIES: Final = (
    Category(
        "sum",
        "sums",
        ("What is {}?", "Calculate {}.", "How much is {}?"),
        _arithmetic("+", lambda one, other: one + other, 1, 999),
        most=600,
    ),
    Category(
        "difference",
        "differences",
        ("What is {}?", "Calculate {}.", "How much is {}?"),
        _arithmetic("-", lambda one, other: one - other, 1, 999),
        most=500,
    ),
    Category(
        "product",
        "products",
        ("What is {}?", "Calculate {}.", "How much is {}?"),
        _arithmetic("×", lambda one, other: one * other, 2, 99),
        most=450,
    ),
    Category("quotient", "quotients", ("What is {}?", "How much is {}?", "Calculate {}."), _quotients, most=400),
    Category(
        "larger",
        "larger of two numbers",
        ("Which number is larger, {}?", "Which is greater: {}?", "Which number is bigger, {}?"),
        _larger,
        most=500,
        repeats_subject=True,
    ),
    Category(
        "digits",
        "numbers in digits",
        ('Write the number "{}" in digits.', "What is {} in digits?", "How do you write {} with digits?"),
        _digits,
        most=450,
    ),
    Category(
        "number_words",
        "numbers in words",
        ("Write the number {} in words.", "How do you spell the number {} in words?", "What is {} in words?"),
        _words,
        most=450,
    ),
    Category(
        "ordinal",
        "ordinals",
        ("What is the ordinal form of {}?", "What is the ordinal number of {}?", "Write {} as an ordinal number."),
        _ordinals,
        most=300,
    ),
    Category(
        "next_number",
        "the number before or after",
        ("Which number comes right {}?", "What whole number comes immediately {}?", "What number comes just {}?"),
        _next,
        most=500,
    ),
)
