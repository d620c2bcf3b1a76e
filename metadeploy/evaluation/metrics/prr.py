"""PRR: the prediction rejection ratio."""

from __future__ import annotations

from numpy.typing import ArrayLike

from metadeploy.evaluation.metrics.aurc import aurc
from metadeploy.evaluation.metrics.inputs import scored

__all__ = ["prr"]


def prr(doubt: ArrayLike, correct: ArrayLike) -> float | None:
    """How far a score gets from random to perfect: (random − area) / (random − oracle).

    The areas are those under the risk–coverage curve; random order has the error rate. 1 is the perfect order, 0 is
    random, below 0 is worse than random (the lowest possible value depends on the error rate). Higher is better.

    Source: Malinin and Gales, "Uncertainty estimation in autoregressive structured prediction", 2021, over the risk of
    what is kept, as LM-Polygraph has it.

    Args:
        doubt: float [n], finite; only its order matters.
        correct: bool [n].

    Returns:
        The ratio; None where all answers are right, all are wrong, or there are none.

    Raises:
        MetricInputError: the input is malformed.
    """
    doubts, right = scored(doubt, correct)
    if right.all() or not right.any():
        return None
    random = 1 - float(right.mean())
    area, best = aurc(doubts, right), aurc(~right, right)
    assert area is not None
    assert best is not None
    return (random - area) / (random - best)
