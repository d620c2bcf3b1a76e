"""Macro AUROC within categories."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from metadeploy.evaluation.metrics.inputs import BoolArray, MetricInputError
from metadeploy.evaluation.metrics.within_categories import CategoryPairs, category_pairs

__all__ = ["macro_auroc", "qualified"]


def macro_auroc(doubt: ArrayLike, base_correct: ArrayLike, category: ArrayLike, *, min_each: int = 5) -> float | None:
    """Mean over categories of the AUROC inside the category; every category weighs the same.

    Range 0 to 1, higher is better. A doubt that only knows how often the base errs in each category has 0.5 here,
    however good its overall AUROC.

    Args:
        doubt: float [n], finite; only its order within a category matters.
        base_correct: bool [n].
        category: text or whole numbers [n].
        min_each: a category counts with at least so many errors and so many right answers, at least 1; with fewer
            its own AUROC is noise.

    Returns:
        The mean; None where no category counts.

    Raises:
        MetricInputError: the input is malformed.
    """
    pairs = category_pairs(doubt, base_correct, category)
    counts = qualified(pairs, min_each)
    if not counts.any():
        return None
    return float(np.mean(pairs.won[counts] / (pairs.wrong[counts] * pairs.right[counts])))


def qualified(pairs: CategoryPairs, min_each: int) -> BoolArray:
    """Say which categories have enough of both, bool [K].

    Raises:
        MetricInputError: ``min_each`` is below 1.
    """
    if min_each < 1:
        raise MetricInputError(f"macro_auroc: min_each is {min_each}, expected at least 1")
    return (pairs.wrong >= min_each) & (pairs.right >= min_each)
