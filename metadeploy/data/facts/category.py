"""Facts and categories, from which the `facts` set generates its questions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from metadeploy.data.checker import fold
from metadeploy.data.hashing import hash_uniform
from metadeploy.data.question import Question

__all__ = ["Category", "Fact", "key", "named_in", "spread"]

_BANDS: Final = 12


@dataclass(frozen=True)
class Fact:
    """One fact, which can be asked in several phrasings.

    Attributes:
        subject: the text that replaces ``{}`` in a phrasing.
        answers: all accepted answers.
        entity: key of its subject; questions of one entity are never in two splits.
        fame: how well known it is, on the scale of its category (log population, word frequency, minus log size).
    """

    subject: str
    answers: tuple[str, ...]
    entity: str
    fame: float = 0.0

    def phrased(self, phrasing: str) -> str:
        """Return the question in a phrasing."""
        text = phrasing.format(self.subject)
        return text[0].upper() + text[1:]


@dataclass(frozen=True)
class Category:
    """One kind of question. Questions that contain their answer are omitted.

    Attributes:
        name: its key.
        title: its name for people.
        phrasings: ways to ask, each with one ``{}``.
        build: returns the facts for a seed; their order does not matter.
        max_facts: maximum number of facts, sampled evenly over their fame.
        repeats: number of phrasings of each fact; more than one if there are few facts.
        repeats_subject: whether the subject may contain the answer (a choice between two numbers).
    """

    name: str
    title: str
    phrasings: tuple[str, ...]
    build: Callable[[int], Iterable[Fact]]
    max_facts: int = 600
    repeats: int = 1
    repeats_subject: bool = False

    def questions(self, seed: int) -> list[Question]:
        """Sample facts and phrasings; the same seed gives the same questions in the same order."""
        facts = [fact for fact in self.build(seed) if self._is_question(fact, fact.subject)]
        questions: dict[str, Question] = {}
        for fact in spread(facts, self.max_facts, seed=seed, salt=self.name):
            order = sorted(self.phrasings, key=lambda phrasing: hash_uniform(seed, self.name, fact.subject, phrasing))
            texts = [text for text in map(fact.phrased, order) if self._is_question(fact, text)]
            for text in texts[: self.repeats]:
                answers = tuple(dict.fromkeys(fact.answers))
                questions.setdefault(text, Question(text, answers, self.name, fact.entity))
        return list(questions.values())

    def _is_question(self, fact: Fact, text: str) -> bool:
        """Return whether a text does not already contain the answer."""
        return self.repeats_subject or not named_in(fact.answers, text)


def spread(facts: Iterable[Fact], max_facts: int, *, seed: int, salt: str = "") -> list[Fact]:
    """Sample facts evenly over the range of their fame.

    The range is cut into bands of equal width, and each band gives one fact in turn until there are enough.

    Args:
        facts: the facts.
        max_facts: maximum number of facts to sample.
        seed: seed of the sample.
        salt: makes samples of the same facts differ.

    Returns:
        The sampled facts, in an order that depends only on the seed.
    """
    pool = sorted(facts, key=lambda fact: (hash_uniform(seed, salt, fact.subject, *fact.answers), fact.subject))
    if len(pool) <= max_facts:
        return pool
    low, high = min(fact.fame for fact in pool), max(fact.fame for fact in pool)
    width = (high - low) / _BANDS or 1.0
    bands: list[list[Fact]] = [[] for _ in range(_BANDS)]
    for fact in pool:
        bands[min(int((fact.fame - low) / width), _BANDS - 1)].append(fact)
    longest_band = max(map(len, bands))
    interleaved = [band[turn] for turn in range(longest_band) for band in bands if turn < len(band)]
    return interleaved[:max_facts]


def key(text: str) -> str:
    """Return a name in the form of an entity's key: without accents and case, words joined by ``-``."""
    return re.sub(r"[^a-z0-9]+", "-", fold(text).casefold()).strip("-")


def named_in(answers: Sequence[str], text: str) -> bool:
    """Return whether a text contains an accepted answer as whole words, so that a question would reveal it."""
    padded = f"-{key(text)}-"
    return any(f"-{key(answer)}-" in padded for answer in answers if key(answer))
