"""AURC: the area under the risk–coverage curve."""

from __future__ import annotations

from numpy.typing import ArrayLike

from metadeploy.evaluation.metrics.risk_coverage import risk_coverage

__all__ = ["aurc"]


def aurc(doubt: ArrayLike, correct: ArrayLike) -> float | None:
    """Mean risk over all coverages: (1/n) · Σ risk at k answered questions, k = 1 … n, ties averaged.

    Range 0 to 1, lower is better. A score without information has the error rate; the best possible value is not 0
    where there are errors, which is what E-AURC and PRR allow for.

    Source: Geifman, Uziel and El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers", 2019.

    Args:
        doubt: float [n], finite; only its order matters.
        correct: bool [n].

    Returns:
        The area; None without questions.

    Raises:
        MetricInputError: the input is malformed.
    """
    risk = risk_coverage(doubt, correct).risk
    return float(risk.mean()) if len(risk) else None
