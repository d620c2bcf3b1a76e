"""Base accuracy."""

from __future__ import annotations

from numpy.typing import ArrayLike

from metadeploy.evaluation.metrics.inputs import flags
from metadeploy.proportion import Share

__all__ = ["base_accuracy"]


def base_accuracy(base_correct: ArrayLike) -> Share:
    """How often the base alone is right: right / all.

    Range 0 to 1, higher is better; undefined without questions. It is what selective accuracy is measured against.

    Args:
        base_correct: bool [n].

    Raises:
        MetricInputError: the input is malformed.
    """
    (right,) = flags(base_correct=base_correct)
    return Share(int(right.sum()), len(right))
