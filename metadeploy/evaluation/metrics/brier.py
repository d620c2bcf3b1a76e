"""Brier score of doubt."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from metadeploy.evaluation.metrics.inputs import scored

__all__ = ["brier"]


def brier(doubt: ArrayLike, base_correct: ArrayLike) -> float | None:
    """Mean squared error of doubt as the probability of an error: mean((doubt − wrong)²), wrong being 0 or 1.

    Range 0 to 1, lower is better; rewards calibration and separation together. The error rate r, given for every
    question alike, has r · (1 − r).

    Source: G. W. Brier, "Verification of forecasts expressed in terms of probability", 1950.

    Args:
        doubt: float [n] in [0, 1].
        base_correct: bool [n].

    Returns:
        The score; None without questions.

    Raises:
        MetricInputError: the input is malformed.
    """
    doubts, right = scored(doubt, base_correct, probability=True)
    return float(np.mean((doubts - ~right) ** 2)) if len(right) else None
