"""Questions about books and paintings, and about landmarks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from metadeploy.data.facts.category import Category, Fact, key
from metadeploy.data.facts.cities import place_entity
from metadeploy.data.facts.countries import countries
from metadeploy.data.facts.culture_tables import LANDMARKS, WORKS

__all__ = ["CATEGORIES"]


def _works(_seed: int) -> Iterator[Fact]:
    for line in WORKS.strip().splitlines():
        author, did, titles = line.split(": ")
        names = tuple(author.split("/"))
        for title in titles.split("; "):
            # the surname, which is first in the table, is enough as an answer
            yield Fact(f'{did} "{title}"', names, f"person:{key(names[0])}")


def _landmarks(_seed: int) -> Iterator[Fact]:
    known = countries()
    for line in LANDMARKS.strip().splitlines():
        areas, names = line.split(": ")
        for name in names.split("; "):
            answers = tuple(
                answer for area in areas.split("/") for answer in (known[area].names if area in known else (area,))
            )
            yield Fact(name, answers, place_entity(name.removeprefix("the ")))


CATEGORIES: Final = (
    Category("author", "authors and artists", ("Who {}?", "Who is the person who {}?"), _works, repeats=2),
    Category(
        "landmark",
        "country of a landmark",
        ("In which country would you find {}?", "Which country has {}?", "In which country can you see {}?"),
        _landmarks,
        repeats=3,
    ),
)
