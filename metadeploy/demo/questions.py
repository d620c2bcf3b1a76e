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

#: The categories of the questions, as people call them.
KINDS: Final = {name: category.title for name, category in CATEGORIES.items()}


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
