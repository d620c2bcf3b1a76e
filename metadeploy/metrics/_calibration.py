"""Doubt as a probability: metrics that compare it with the errors, and Platt's calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metadeploy.metrics._inputs import MetricInputError, scored, scores

__all__ = ["PlattCalibration", "brier", "ece", "ece_noise_floor", "platt_calibration"]


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


def ece_noise_floor(doubt: ArrayLike, *, bins: int = 10, n_draws: int = 200, seed: int = 0) -> float | None:
    """Mean `ece` that the doubts would have if each were exactly the probability of an error.

    Finite numbers of questions give even perfect probabilities an ECE above 0. Subtracting is not valid; compare.

    Args:
        doubt: float [n] in [0, 1].
        bins: as in `ece`.
        n_draws: number of sets of errors that are drawn, at least 1.
        seed: seed of the draws.

    Returns:
        The mean; None without questions.
    """
    if n_draws < 1:
        raise MetricInputError(f"ece_noise_floor: n_draws is {n_draws}, expected at least 1")
    (doubts,) = scores(doubt=doubt, probability=True)
    rng = np.random.default_rng(seed)
    values = [ece(doubts, rng.random(len(doubts)) >= doubts, bins=bins) for _ in range(n_draws)]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


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


@dataclass(frozen=True)
class PlattCalibration:
    """Maps a logit of being wrong to a probability: sigmoid(slope · logit + intercept).

    Attributes:
        slope: factor; above 0 if higher logits mean more errors.
        intercept: offset.
    """

    slope: float
    intercept: float

    def __call__(self, logit: ArrayLike) -> NDArray[np.float64]:
        """Return the probabilities of some logits, float64 [n]."""
        z = self.slope * np.asarray(logit, dtype=np.float64) + self.intercept
        # two forms, so that neither overflows
        return np.where(z >= 0, 1 / (1 + np.exp(-np.abs(z))), np.exp(-np.abs(z)) / (1 + np.exp(-np.abs(z))))


def platt_calibration(logit: ArrayLike, base_correct: ArrayLike) -> PlattCalibration | None:
    """Fit Platt's calibration: the logistic regression of the errors on the logit.

    It has two parameters, so that a few hundred questions are enough, and it never changes the order of questions.

    Source: Platt, "Probabilistic outputs for support vector machines and comparisons to regularized likelihood
    methods", 1999, with its prior of the targets: (n₁ + 1) / (n₁ + 2) for the n₁ errors, and 1 / (n₀ + 2) for the n₀
    right answers. So the fit is finite even if the logit separates the two.

    Args:
        logit: float [n], any finite numbers; higher means more doubt.
        base_correct: bool [n].

    Returns:
        The calibration; None if there are no errors, or only errors.
    """
    from scipy.optimize import minimize

    z, right = scored(logit, base_correct)
    n_wrong, n_right = int((~right).sum()), int(right.sum())
    if not n_wrong or not n_right:
        return None
    targets = np.where(right, 1 / (n_right + 2), (n_wrong + 1) / (n_wrong + 2))
    center, scale = float(z.mean()), float(z.std()) or 1.0
    x = (z - center) / scale

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = parameters[0] * x + parameters[1]
        gradient = PlattCalibration(1.0, 0.0)(logits) - targets
        value = float(np.mean(np.logaddexp(0.0, logits) - targets * logits))
        return value, np.array([np.mean(gradient * x), np.mean(gradient)])

    slope, intercept = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
    return PlattCalibration(float(slope / scale), float(intercept - slope * center / scale))
