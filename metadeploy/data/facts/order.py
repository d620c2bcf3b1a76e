"""Questions about things that stand in an order: letters, days, months."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from typing import Final

from metadeploy.data.facts.category import Category, Fact, key

__all__ = ["CATEGORIES"]

_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_SEASONS: Final = ("spring", "summer", "autumn", "winter")
_PLANETS: Final = ("Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune")
#: Signs of the zodiac and Greek letters: orders that fewer people know.
_ZODIAC: Final = (
    *("Aries", "Taurus", "Gemini", "Cancer", "Leo", "Virgo"),
    *("Libra", "Scorpio", "Sagittarius", "Capricorn", "Aquarius", "Pisces"),
)
_GREEK: Final = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu"),
    *("nu", "xi", "omicron", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega"),
)
_ORDINALS: Final = (
    *("first", "second", "third", "fourth", "fifth", "sixth"),
    *("seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"),
)


def _neighbours(names: Sequence[str], what: str, *, after: str, before: str, circular: bool) -> Iterator[Fact]:
    """What comes after and before each of the names."""
    for place, name in enumerate(names):
        for step, words in ((1, after), (-1, before)):
            if circular or 0 <= place + step < len(names):
                answer = names[(place + step) % len(names)]
                yield Fact(f"{what} {words} {name}", _also(answer), f"order:{key(name)}")


def _also(name: str) -> tuple[str, ...]:
    return (name, "fall") if name == "autumn" else (name,)


def _letters(_seed: int) -> Iterator[Fact]:
    return _neighbours(string.ascii_uppercase, "letter", after="after", before="before", circular=False)


def _orders(_seed: int) -> Iterator[Fact]:
    for names, what in ((_DAYS, "day of the week"), (_MONTHS, "month"), (_SEASONS, "season")):
        yield from _neighbours(names, what, after="comes right after", before="comes right before", circular=True)
    yield from _neighbours(
        _PLANETS, "planet", after="is the next one from the Sun after", before="is the last one before", circular=False
    )
    yield from _neighbours(
        _ZODIAC, "sign of the zodiac", after="comes right after", before="comes right before", circular=True
    )
    yield from _neighbours(
        _GREEK, "letter of the Greek alphabet", after="comes right after", before="comes right before", circular=False
    )
    for names, what in (
        (_MONTHS, "month of the year"),
        (_DAYS, "day of the week, counted from Monday,"),
        (_PLANETS, "planet from the Sun"),
    ):
        for ordinal, name in zip(_ORDINALS, names, strict=False):
            yield Fact(f"{what} is the {ordinal}", (name,), f"order:{key(name)}")


CATEGORIES: Final = (
    Category(
        "letter",
        "letters of the alphabet",
        (
            "Which {}?",
            "In the alphabet, which {}?",
            "What {} in the alphabet?",
            "What is the {}?",
        ),
        _letters,
        repeats=4,
    ),
    Category("order", "days, months, planets", ("Which {}?", "What {}?"), _orders, repeats=2),
)
