"""The `facts` set: short-answer questions made from well-kept data packages and arithmetic.

Every category holds what a very small model knows beside what it does not (capitals of the world and towns of 20,000,
2 + 2 and 487 + 356, frequent words and rare ones), so that a Doubter cannot get by on the kind of question alone.
The set depends on nothing but the seed and the versions of the packages: no network, no clock, no order of sets.
"""

from __future__ import annotations

from typing import Final

from metadeploy.data.facts import cities, countries, culture, elements, numbers, sequences, words
from metadeploy.data.facts.category import Category
from metadeploy.data.question import Question
from metadeploy.errors import MissingDependencyError

__all__ = ["CATEGORIES", "generate"]

#: Every category by its name.
CATEGORIES: Final[dict[str, Category]] = {
    category.name: category
    for domain in (countries, cities, culture, elements, words, sequences, numbers)
    for category in domain.CATEGORIES
}


def generate(seed: int = 0) -> list[Question]:
    """Make the set.

    Args:
        seed: draws entities and phrasings; the same seed gives the same questions.

    Returns:
        About 36,000 questions, category by category; no text occurs twice.

    Raises:
        MissingDependencyError: a data package is not installed.
    """
    questions: dict[str, Question] = {}
    try:
        for category in CATEGORIES.values():
            for question in category.questions(seed):
                questions.setdefault(question.question, question)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"facts: the package '{error.name}' is not installed, expected the extra 'data' "
            "(hint: pip install 'metadeploy[data]')"
        ) from error
    return list(questions.values())
