"""Metrics that compare doubt, read as a probability, with the errors."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from metadeploy.metrics._inputs import MetricInputError, scored

__all__ = ["brier", "ece"]


def ece(doubt: ArrayLike, base_correct: ArrayLike, *, bins: int = 10) -> float | None:
    """Expected calibration error: the distance between 1 − doubt and the proportion of right answers.

    Σ over bins of (size of the bin / n) · |mean of 1 − doubt in it − accuracy in it|. The bins have equal width over
    doubt. Each includes its lower edge, and the last one also includes 1. Range 0 to 1, lower is better. It measures
    whether doubt is a good probability, not whether it separates: a constant doubt equal to the error rate has 0.

    Source: Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", 2015; Guo
    et al., "On calibration of modern neural networks", 2017.

    Args:
        doubt: float [n] in [0, 1].
        base_correct: bool [n].
        bins: number of bins, at least 1.

    Returns:
        The error; None without questions.
    """
    if bins < 1:
        raise MetricInputError(f"ece: {bins} bins, expected at least 1")
    doubts, right = scored(doubt, base_correct, probability=True)
    if not len(right):
        return None
    indices = np.minimum((doubts * bins).astype(np.intp), bins - 1)
    # in a bin, 1 − doubt and accuracy differ by as much as doubt and error rate
    gaps = np.bincount(indices, weights=doubts - ~right, minlength=bins)
    return float(np.abs(gaps).sum() / len(right))


def brier(doubt: ArrayLike, base_correct: ArrayLike) -> float | None:
    """Mean squared error of doubt as the probability of an error: mean((doubt − wrong)²), where wrong is 0 or 1.

    Range 0 to 1, lower is better. It rewards calibration and separation together. A constant doubt equal to the error
    rate r has r · (1 − r).

    Source: G. W. Brier, "Verification of forecasts expressed in terms of probability", 1950.

    Args:
        doubt: float [n] in [0, 1].
        base_correct: bool [n].

    Returns:
        The score; None without questions.
    """
    doubts, right = scored(doubt, base_correct, probability=True)
    return float(np.mean((doubts - ~right) ** 2)) if len(right) else None
