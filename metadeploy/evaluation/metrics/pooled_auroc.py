"""Pooled AUROC within categories."""

from __future__ import annotations

from numpy.typing import ArrayLike

from metadeploy.evaluation.metrics.within_categories import category_pairs

__all__ = ["pooled_auroc"]


def pooled_auroc(doubt: ArrayLike, base_correct: ArrayLike, category: ArrayLike) -> float | None:
    """How often an error is doubted more than a right answer of the same category; an equal doubt counts half.

    All pairs inside all categories weigh the same, so large and mixed categories weigh most: the complement of
    `macro_auroc`. Range 0 to 1, higher is better, 0.5 is no information beyond the category.

    Args:
        doubt: float [n], finite; only its order within a category matters.
        base_correct: bool [n].
        category: text or whole numbers [n].

    Returns:
        The share of pairs; None where no category has both an error and a right answer.

    Raises:
        MetricInputError: the input is malformed.
    """
    pairs = category_pairs(doubt, base_correct, category)
    total = (pairs.wrong * pairs.right).sum()
    return float(pairs.won.sum() / total) if total else None
