"""Kept rate: what the injection leaves intact."""

from __future__ import annotations

from numpy.typing import ArrayLike

from metadeploy.evaluation.metrics.inputs import flags
from metadeploy.proportion import Share

__all__ = ["kept_rate"]


def kept_rate(base_correct: ArrayLike, answered: ArrayLike, correct: ArrayLike) -> Share:
    """How many right answers of the base stay right where the Doubter lets them pass.

    Answered, base right and still right / answered and base right. Range 0 to 1, higher is better; 1 means that the
    injection spoils no answer. Undefined where no right answer of the base passes.

    Args:
        base_correct: bool [n].
        answered: bool [n].
        correct: bool [n].

    Raises:
        MetricInputError: the input is malformed.
    """
    base, given, right = flags(base_correct=base_correct, answered=answered, correct=correct)
    passed = given & base
    return Share(int((passed & right).sum()), int(passed.sum()))
