"""Questions about things that have an order: days, months, seasons, planets."""

from __future__ import annotations

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
_ORDINALS: Final = (
    *("first", "second", "third", "fourth", "fifth", "sixth"),
    *("seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"),
)


def _adjacent(names: Sequence[str], phrase: str, *, circular: bool = True) -> Iterator[Fact]:
    """Yield the facts about what comes after and before each name."""
    for place, name in enumerate(names):
        for step, position in ((1, "after"), (-1, "before")):
            if circular or 0 <= place + step < len(names):
                answer = names[(place + step) % len(names)]
                yield Fact(f"{phrase}{position} {name}", _also(answer), f"order:{key(name)}")


def _numbered(names: Sequence[str], phrase: str) -> Iterator[Fact]:
    """Yield the facts about which name is the first, the second, and so on."""
    for ordinal, name in zip(_ORDINALS, names, strict=False):
        yield Fact(f"{phrase} is the {ordinal}", (name,), f"order:{key(name)}")


def _also(name: str) -> tuple[str, ...]:
    return (name, "fall") if name == "autumn" else (name,)


def _orders(_seed: int) -> Iterator[Fact]:
    yield from _adjacent(_DAYS, "day of the week comes right ")
    yield from _adjacent(_MONTHS, "month comes right ")
    yield from _adjacent(_SEASONS, "season comes right ")
    yield from _adjacent(_PLANETS, "planet, counted from the Sun, comes right ", circular=False)
    yield from _numbered(_DAYS, "day of the week, counted from Monday,")
    yield from _numbered(_MONTHS, "month of the year")
    yield from _numbered(_PLANETS, "planet, counted from the Sun,")


CATEGORIES: Final = (Category("order", "days, months, planets", ("Which {}?", "What {}?"), _orders, repeats=2),)
