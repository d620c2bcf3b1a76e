"""Questions about numbers: arithmetic, numbers in words, and the order of numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Final

from metadeploy.data.facts.category import Category, Fact
from metadeploy.data.hashing import hash_uniform

if TYPE_CHECKING:
    import inflect

__all__ = ["CATEGORIES"]

#: Number of draws for each kind of sum, more than a category needs.
_DRAWS: Final = 6_000


def _log_uniform(low: int, high: int, at: float) -> int:
    """Map 0 ≤ ``at`` < 1 to a whole number from ``low`` to ``high``, so that all orders of magnitude are as likely."""
    return int(low * ((high + 1) / low) ** at)


def _pairs(seed: int, salt: str, low: int, high: int) -> Iterator[tuple[int, int]]:
    """Yield pairs of numbers whose sizes are spread evenly on a log scale, each unordered pair once."""
    seen = set()
    for turn in range(_DRAWS):
        one, other = (_log_uniform(low, high, hash_uniform(seed, salt, which, str(turn))) for which in ("one", "other"))
        if frozenset((one, other)) not in seen:
            seen.add(frozenset((one, other)))
            yield one, other


def _entity(one: int, other: int) -> str:
    return f"pair:{min(one, other)},{max(one, other)}"


def _fame(*numbers: int) -> float:
    """Return the fame of numbers: smaller ones are better known."""
    return -math.log(math.prod(numbers))


def _arithmetic(sign: str, result: Callable[[int, int], int], low: int, high: int) -> Callable[[int], Iterator[Fact]]:
    """Return a builder of arithmetic facts."""

    def build(seed: int) -> Iterator[Fact]:
        for one, other in _pairs(seed, sign, low, high):
            if sign == "-" and one < other:
                one, other = other, one
            answers = (str(result(one, other)),)
            yield Fact(f"{one} {sign} {other}", answers, _entity(one, other), _fame(one, other))

    return build


def _larger_and_smaller(seed: int) -> Iterator[Fact]:
    for one, other in _pairs(seed, "larger", 1, 9_999):
        if one != other:
            which, pick = ("larger", max) if hash_uniform(seed, "which", f"{one} {other}") < 0.5 else ("smaller", min)
            subject = f"{which} number: {one} or {other}"
            yield Fact(subject, (str(pick(one, other)),), _entity(one, other), _fame(one, other))


@cache
def _inflect() -> inflect.engine:
    import inflect

    return inflect.engine()


def _in_words(number: int) -> str:
    return str(_inflect().number_to_words(str(number)))


def _singles(seed: int, salt: str, low: int, high: int) -> Iterator[int]:
    """Return different numbers whose sizes are spread evenly on a log scale."""
    numbers = (_log_uniform(low, high, hash_uniform(seed, salt, str(turn))) for turn in range(_DRAWS))
    return iter(dict.fromkeys(numbers))


def _digits(seed: int) -> Iterator[Fact]:
    for number in _singles(seed, "digits", 1, 9_999):
        yield Fact(_in_words(number), (str(number),), f"number:{number}", _fame(number))


def _next(seed: int) -> Iterator[Fact]:
    for number, (step, words) in itertools.product(_singles(seed, "next", 2, 9_999), ((1, "after"), (-1, "before"))):
        yield Fact(f"{words} {number}", (str(number + step),), f"number:{number}", _fame(number))


CATEGORIES: Final = (
    Category(
        "sum",
        "sums",
        ("What is {}?", "What does {} equal?", "What is {} equal to?"),
        _arithmetic("+", lambda one, other: one + other, 1, 999),
        max_facts=2500,
    ),
    Category(
        "difference",
        "differences",
        ("What is {}?", "What does {} equal?", "What is {} equal to?"),
        _arithmetic("-", lambda one, other: one - other, 1, 999),
        max_facts=1900,
    ),
    Category(
        "product",
        "products",
        ("What is {}?", "What does {} equal?", "What is {} equal to?"),
        _arithmetic("×", lambda one, other: one * other, 2, 99),
        max_facts=1500,
    ),
    Category(
        "larger",
        "larger or smaller of two numbers",
        ("What is the {}?", "Which is the {}?"),
        _larger_and_smaller,
        repeats_subject=True,
        max_facts=1400,
    ),
    Category(
        "digits",
        "numbers in digits",
        ("Write {} as a number.", "What number is {}?", "How is {} written as a number?"),
        _digits,
        max_facts=800,
    ),
    Category(
        "next_number",
        "the number before or after",
        ("What is the number {}?", "Which number comes {}?"),
        _next,
        max_facts=300,
    ),
)
