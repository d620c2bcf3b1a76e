"""Refusal precision against the oracle."""

from __future__ import annotations

from numpy.typing import ArrayLike

from metadeploy.evaluation.metrics.inputs import flags
from metadeploy.proportion import Share

__all__ = ["refusal_precision"]


def refusal_precision(base_correct: ArrayLike, answered: ArrayLike) -> Share:
    """How often a refusal was called for: declined and the base was wrong / declined.

    The oracle declines exactly what the base gets wrong. Range 0 to 1, higher is better; declining at random scores
    1 − base accuracy. Undefined where nothing is declined.

    Args:
        base_correct: bool [n].
        answered: bool [n].

    Raises:
        MetricInputError: the input is malformed.
    """
    right, given = flags(base_correct=base_correct, answered=answered)
    return Share(int((~given & ~right).sum()), int((~given).sum()))
