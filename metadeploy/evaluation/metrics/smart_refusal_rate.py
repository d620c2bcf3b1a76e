"""Smart-refusal rate: base errors caught."""

from __future__ import annotations

from numpy.typing import ArrayLike

from metadeploy.evaluation.metrics.inputs import flags
from metadeploy.proportion import Share

__all__ = ["smart_refusal_rate"]


def smart_refusal_rate(base_correct: ArrayLike, answered: ArrayLike) -> Share:
    """How many of the base's errors are declined: declined and the base was wrong / the base was wrong.

    Range 0 to 1, higher is better; declining at random scores the refusal rate. Undefined where the base errs nowhere.

    Args:
        base_correct: bool [n].
        answered: bool [n].

    Raises:
        MetricInputError: the input is malformed.
    """
    right, given = flags(base_correct=base_correct, answered=answered)
    return Share(int((~given & ~right).sum()), int((~right).sum()))
