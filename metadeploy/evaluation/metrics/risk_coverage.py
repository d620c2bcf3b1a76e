"""The risk–coverage curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from metadeploy.evaluation.metrics.inputs import BoolArray, FloatArray, scored

__all__ = ["RiskCoverage", "expected_right", "risk_coverage"]


@dataclass(frozen=True)
class RiskCoverage:
    """A point for each number of answered questions k = 1 … n.

    Attributes:
        coverage: float64 [n], k / n, ascending.
        risk: float64 [n], the expected share of wrong answers among the k least doubted questions.
    """

    coverage: FloatArray
    risk: FloatArray

    @property
    def selective_accuracy(self) -> FloatArray:
        """Float64 [n], 1 − risk."""
        return 1 - self.risk


def risk_coverage(doubt: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """Answer the k least doubted questions: how many of the answers are wrong, for every k.

    Risk 0 to 1, lower is better. Questions of equal doubt have no order, so the curve is the mean over all orders of
    them: the number of errors grows linearly within a tie. A constant score thus gives the flat line of the error rate.

    Source: Geifman and El-Yaniv, "Selective classification for deep neural networks", 2017.

    Args:
        doubt: float [n], finite; only its order matters.
        correct: bool [n], whether the answer is right that is given if one is given.

    Returns:
        The curve; empty without questions.

    Raises:
        MetricInputError: the input is malformed.
    """
    right = expected_right(*scored(doubt, correct))
    answered = np.arange(1, len(right))
    return RiskCoverage(coverage=answered / max(len(answered), 1), risk=1 - right[1:] / answered)


def expected_right(doubt: FloatArray, correct: BoolArray) -> FloatArray:
    """How many right ones to expect among the k least doubted, with ties in random order.

    Args:
        doubt: float64 [n], finite.
        correct: bool [n].

    Returns:
        Float64 [n + 1], for k = 0 … n.
    """
    order = np.argsort(doubt)
    ordered = doubt[order]
    tie_ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) + 1 if len(order) else np.empty(0, np.intp)
    known = np.concatenate(([0], tie_ends))
    right = np.concatenate(([0], np.cumsum(correct[order])))
    return np.interp(np.arange(len(order) + 1), known, right[known])
