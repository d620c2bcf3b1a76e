"""What a domain of the `facts` set is made of: facts and categories."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from metadeploy.data.checker import fold
from metadeploy.data.hashing import draw
from metadeploy.data.question import Question

__all__ = ["Category", "Fact", "key", "named_in", "spread"]

_BANDS: Final = 12


@dataclass(frozen=True)
class Fact:
    """One fact, to be asked in one or more phrasings.

    Attributes:
        subject: what a phrasing's ``{}`` becomes.
        answers: every accepted answer.
        entity: key of what must not be shared between splits.
        fame: how well known it is, on the scale of its category (log population, word frequency, minus log size).
    """

    subject: str
    answers: tuple[str, ...]
    entity: str
    fame: float = 0.0

    def phrased(self, phrasing: str) -> str:
        """The question in a phrasing."""
        text = phrasing.format(self.subject)
        return text[0].upper() + text[1:]


@dataclass(frozen=True)
class Category:
    """One kind of question; a question that names its answer is left out.

    Attributes:
        name: its key.
        title: as people call it.
        phrasings: ways to ask, each with one ``{}``.
        build: gives the facts for a seed; their order does not matter.
        most: at most so many facts, drawn evenly over their fame.
        repeats: so many phrasings of each fact; more than one where there are few facts.
        repeats_subject: whether an answer may stand in the subject (a choice between two numbers).
    """

    name: str
    title: str
    phrasings: tuple[str, ...]
    build: Callable[[int], Iterable[Fact]]
    most: int = 600
    repeats: int = 1
    repeats_subject: bool = False

    def questions(self, seed: int) -> list[Question]:
        """Draw facts and phrasings; the same seed gives the same questions in the same order."""
        facts = [fact for fact in self.build(seed) if self._is_question(fact, fact.subject)]
        questions: dict[str, Question] = {}
        for fact in spread(facts, self.most, seed=seed, salt=self.name):
            order = sorted(self.phrasings, key=lambda phrasing: draw(seed, self.name, fact.subject, phrasing))
            texts = [text for text in map(fact.phrased, order) if self._is_question(fact, text)]
            for text in texts[: self.repeats]:
                answers = tuple(dict.fromkeys(fact.answers))
                questions.setdefault(text, Question(text, answers, self.name, fact.entity))
        return list(questions.values())

    def _is_question(self, fact: Fact, text: str) -> bool:
        """Whether a text leaves something to answer."""
        return self.repeats_subject or not named_in(fact.answers, text)


def spread(facts: Iterable[Fact], most: int, *, seed: int, salt: str = "") -> list[Fact]:
    """Draw facts evenly over the range of their fame.

    The range is cut into bands of equal width, and each band gives one fact in turn until there are enough.

    Args:
        facts: what to draw from.
        most: how many; all of them where there are fewer.
        seed: of the draw.
        salt: makes draws of the same facts differ.

    Returns:
        The facts drawn, in an order that depends on the seed alone.
    """
    pool = sorted(facts, key=lambda fact: (draw(seed, salt, fact.subject, *fact.answers), fact.subject))
    if len(pool) <= most:
        return pool
    low, high = min(fact.fame for fact in pool), max(fact.fame for fact in pool)
    width = (high - low) / _BANDS or 1.0
    bands: list[list[Fact]] = [[] for _ in range(_BANDS)]
    for fact in pool:
        bands[min(int((fact.fame - low) / width), _BANDS - 1)].append(fact)
    longest = max(map(len, bands))
    in_turn = [band[turn] for turn in range(longest) for band in bands if turn < len(band)]
    return in_turn[:most]


def key(text: str) -> str:
    """A name as part of an entity's key: without accents and case, words joined by ``-``."""
    return re.sub(r"[^a-z0-9]+", "-", fold(text).casefold()).strip("-")


def named_in(answers: Sequence[str], text: str) -> bool:
    """Whether an accepted answer stands in a text as whole words: a question would give it away."""
    padded = f"-{key(text)}-"
    return any(f"-{key(answer)}-" in padded for answer in answers if key(answer))
