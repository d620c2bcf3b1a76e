"""AUPRC of doubt for base error."""

from __future__ import annotations

from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score

from metadeploy.evaluation.metrics.inputs import scored

__all__ = ["auprc"]


def auprc(doubt: ArrayLike, base_correct: ArrayLike) -> float | None:
    """Average precision with which doubt finds the base's errors: Σ (recall step) · (precision there).

    Thresholds fall over the distinct doubts, so ties are one step. Range 0 to 1, higher is better; a score without
    information has the error rate, so compare only on the same questions.

    Source: scikit-learn's ``average_precision_score`` (step-wise, without interpolation).

    Args:
        doubt: float [n], finite; only its order matters.
        base_correct: bool [n].

    Returns:
        The area; None where there is no error or no right answer.

    Raises:
        MetricInputError: the input is malformed.
    """
    doubts, right = scored(doubt, base_correct)
    if right.all() or not right.any():
        return None
    return float(average_precision_score(~right, doubts))
