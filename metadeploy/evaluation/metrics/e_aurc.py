"""E-AURC: the area above the best possible risk–coverage curve."""

from __future__ import annotations

from numpy.typing import ArrayLike

from metadeploy.evaluation.metrics.aurc import aurc
from metadeploy.evaluation.metrics.inputs import scored

__all__ = ["e_aurc"]


def e_aurc(doubt: ArrayLike, correct: ArrayLike) -> float | None:
    """AURC − AURC of the oracle, which doubts the wrong answers and no others.

    Range 0 to 1, lower is better, 0 for a perfect order. The oracle's area is that of these n questions and not its
    limit r + (1 − r) · ln(1 − r), so that 0 is reached.

    Source: Geifman, Uziel and El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers", 2019.

    Args:
        doubt: float [n], finite; only its order matters.
        correct: bool [n].

    Returns:
        The excess; None without questions.

    Raises:
        MetricInputError: the input is malformed.
    """
    doubts, right = scored(doubt, correct)
    area, best = aurc(doubts, right), aurc(~right, right)
    # the two may differ by rounding where the order is perfect
    return None if area is None or best is None else max(0.0, area - best)
