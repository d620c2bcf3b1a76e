"""The demo's questions."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Final

from metadeploy.data.facts import CATEGORIES
from metadeploy.data.question import Question, read_jsonl
from metadeploy.demo import assets

__all__ = ["KINDS", "load_questions", "pick"]

#: The categories of the questions, with names for people.
KINDS: Final = {name: category.title for name, category in CATEGORIES.items()}


def load_questions() -> tuple[Question, ...]:
    """Return all questions. Training used no questions about the same entities."""
    return tuple(read_jsonl(assets.QUESTIONS))


def pick(questions: Sequence[Question], count: int, *, seed: int) -> tuple[Question, ...]:
    """Draw questions evenly from the categories: one question of every category before a second one of any.

    Args:
        questions: the questions to draw from.
        count: number of questions; if there are fewer, all are returned.
        seed: the same seed draws the same questions in the same order.
    """
    by_category: dict[str, list[Question]] = {}
    for question in random.Random(seed).sample(questions, len(questions)):
        by_category.setdefault(question.category, []).append(question)
    rounds = itertools.zip_longest(*by_category.values())
    return tuple(question for round_ in rounds for question in round_ if question is not None)[:count]
