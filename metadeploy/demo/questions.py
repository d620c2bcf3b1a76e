"""The demo's questions."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Final

from metadeploy.data.question import Question, read_jsonl
from metadeploy.demo import assets

__all__ = ["KINDS", "load_questions", "pick"]

#: The categories of the questions, as people call them.
KINDS: Final = {
    "antonym": "opposites",
    "arith_add": "sums",
    "arith_mul": "products",
    "arith_sub": "differences",
    "calendar": "days and months",
    "capital": "capital of a country",
    "capital_of": "country of a capital",
    "city_big": "country of a large city",
    "city_mid": "country of a middling city",
    "city_small": "country of a small city",
    "continent": "continents",
    "currency": "currencies",
    "demonym": "names of peoples",
    "el_bynum": "element by its number",
    "el_group": "kind of an element",
    "el_name": "element by its symbol",
    "el_number": "atomic numbers",
    "el_symbol": "chemical symbols",
    "language": "official languages",
    "letter": "letters",
    "past": "past tenses",
    "phone": "calling codes",
    "plural": "plurals",
    "roman": "Roman numerals",
    "tld": "top-level domains",
    "us_capital": "capital of a US state",
    "us_capof": "US state of a capital",
    "us_city": "US state of a city",
}


def load_questions() -> tuple[Question, ...]:
    """All questions, about things that the shipped Doubter has not seen in training."""
    return tuple(read_jsonl(assets.QUESTIONS))


def pick(questions: Sequence[Question], count: int, *, seed: int) -> tuple[Question, ...]:
    """Draw questions, spread over the categories: none gets a second one before each has its first.

    Args:
        questions: what to draw from.
        count: how many; all of them where there are fewer.
        seed: of the drawing; the same one draws the same questions in the same order.
    """
    kinds: dict[str, list[Question]] = {}
    for question in random.Random(seed).sample(questions, len(questions)):
        kinds.setdefault(question.category, []).append(question)
    rounds = itertools.zip_longest(*kinds.values())
    return tuple(question for one_of_each in rounds for question in one_of_each if question is not None)[:count]
