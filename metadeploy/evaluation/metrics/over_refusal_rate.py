"""Over-refusal rate."""

from __future__ import annotations

from numpy.typing import ArrayLike

from metadeploy.evaluation.metrics.inputs import flags
from metadeploy.proportion import Share

__all__ = ["over_refusal_rate"]


def over_refusal_rate(base_correct: ArrayLike, answered: ArrayLike) -> Share:
    """How many of the base's right answers are lost: declined and the base was right / the base was right.

    Range 0 to 1, lower is better; declining at random scores the refusal rate. Undefined where the base is never right.

    Args:
        base_correct: bool [n].
        answered: bool [n].

    Raises:
        MetricInputError: the input is malformed.
    """
    right, given = flags(base_correct=base_correct, answered=answered)
    return Share(int((~given & right).sum()), int(right.sum()))
