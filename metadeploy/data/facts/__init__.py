"""The `facts` set: short-answer questions from well-maintained data packages and arithmetic.

Every category has questions that a very small model can answer and questions that it cannot (large capitals and towns
of 20,000 people, 2 + 2 and 487 + 356, frequent and rare words). So the kind of question alone does not tell a Doubter
whether the answer is right. The set depends only on the seed and the versions of the packages.
"""

from __future__ import annotations

from typing import Final

from metadeploy.data.facts import cities, countries, culture, elements, numbers, sequences, words
from metadeploy.data.facts.category import Category
from metadeploy.data.question import Question
from metadeploy.errors import MissingDependencyError

__all__ = ["CATEGORIES", "generate"]

#: The categories by name.
CATEGORIES: Final[dict[str, Category]] = {
    category.name: category
    for domain in (countries, cities, culture, elements, words, sequences, numbers)
    for category in domain.CATEGORIES
}


def generate(seed: int = 0) -> list[Question]:
    """Generate the set.

    Args:
        seed: selects entities and phrasings; the same seed gives the same questions.

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
