"""Refusal rate."""

from __future__ import annotations

from numpy.typing import ArrayLike

from metadeploy.evaluation.metrics.inputs import flags
from metadeploy.proportion import Share

__all__ = ["refusal_rate"]


def refusal_rate(answered: ArrayLike) -> Share:
    """How much is declined: declined / all = 1 − coverage.

    Range 0 to 1; neither direction is better by itself. Undefined without questions.

    Args:
        answered: bool [n].

    Raises:
        MetricInputError: the input is malformed.
    """
    (given,) = flags(answered=answered)
    return Share(int((~given).sum()), len(given))
