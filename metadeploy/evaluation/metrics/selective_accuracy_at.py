"""Selective accuracy at a chosen coverage."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from metadeploy.evaluation.metrics.inputs import MetricInputError, scored
from metadeploy.evaluation.metrics.risk_coverage import expected_right

__all__ = ["selective_accuracy_at"]


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
    if not 0 < coverage <= 1:
        raise MetricInputError(f"selective_accuracy_at: coverage is {coverage}, expected above 0 and at most 1")
    right = expected_right(*scored(doubt, correct))
    n = len(right) - 1
    return float(np.interp(coverage * n, np.arange(n + 1), right) / (coverage * n)) if n else None
