"""Selective accuracy at a chosen coverage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from metadeploy.evaluation.metrics.inputs import MetricInputError, scored
from metadeploy.evaluation.metrics.risk_coverage import expected_right

__all__ = ["selective_accuracies_at", "selective_accuracy_at"]


def selective_accuracy_at(doubt: ArrayLike, correct: ArrayLike, *, coverage: float) -> float | None:
    """Accuracy over the least doubted questions, as many of them as the coverage says.

    With k = coverage · n: the expected number of right ones among the first k / k. Ties are in random order, and a k
    between two whole numbers takes that part of the next question, so nothing depends on the order of the input and
    nothing is gained by a lucky cut. Range 0 to 1, higher is better.

    Args:
        doubt: float [n], finite; only its order matters.
        correct: bool [n].
        coverage: above 0, at most 1.

    Returns:
        The accuracy; None without questions.

    Raises:
        MetricInputError: the input is malformed, or the coverage out of range.
    """
    (found,) = selective_accuracies_at(doubt, correct, coverages=(coverage,))
    return found


def selective_accuracies_at(doubt: ArrayLike, correct: ArrayLike, *, coverages: Sequence[float]) -> list[float | None]:
    """`selective_accuracy_at` for each of several coverages, for little more than the time of one."""
    for coverage in coverages:
        if not 0 < coverage <= 1:
            raise MetricInputError(f"selective_accuracy_at: coverage is {coverage}, expected above 0 and at most 1")
    right = expected_right(*scored(doubt, correct))
    n = len(right) - 1
    if not n:
        return [None] * len(coverages)
    answered = np.asarray(coverages) * n
    found: list[float | None] = (np.interp(answered, np.arange(n + 1), right) / answered).tolist()
    return found
