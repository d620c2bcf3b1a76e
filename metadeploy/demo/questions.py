"""The demo's questions, and when an answer counts as right."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from metadeploy.demo import assets

__all__ = ["KINDS", "Question", "first_sentence", "is_right", "load_questions", "pick"]

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

# "St. John's" does not end a sentence; a closing quote belongs to the one before it
_SENTENCE_END: Final = re.compile(r"(?<!\bSt)[.!?][\"'”’)]*(?=\s|$)|\n")


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        text: the question.
        answers: every accepted answer.
        category: its kind, a key of `KINDS`.
    """

    text: str
    answers: tuple[str, ...]
    category: str


def load_questions() -> tuple[Question, ...]:
    """All questions, about things that the shipped Doubter has not seen in training."""
    with assets.QUESTIONS.open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    return tuple(Question(each["question"], tuple(each["answers"]), each["category"]) for each in records)


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


def first_sentence(text: str) -> str:
    """The opening sentence of an answer, or its first line, whichever is shorter."""
    text = text.strip()
    end = _SENTENCE_END.search(text)
    return text[: end.end()].rstrip() if end else text


def is_right(question: Question, text: str) -> bool:
    """Whether an accepted answer stands in the first sentence, as a whole word.

    Upper and lower case are the same, except in chemical symbols. This is generous to an answer that names several
    things, and strict to one that is right in other words.
    """
    flags = 0 if question.category == "el_symbol" else re.IGNORECASE
    sentence = first_sentence(text)
    return any(re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", sentence, flags) for answer in question.answers)
