"""Selective accuracy."""

from __future__ import annotations

from numpy.typing import ArrayLike

from metadeploy.evaluation.metrics.inputs import flags
from metadeploy.proportion import Share

__all__ = ["selective_accuracy"]


def selective_accuracy(answered: ArrayLike, correct: ArrayLike) -> Share:
    """How often an answer that is given is right: answered and right / answered.

    Range 0 to 1, higher is better; undefined where nothing is answered, so that declining everything does not win.

    Source: El-Yaniv and Wiener, "On the foundations of noise-free selective classification", 2010 (one minus the
    selective risk).

    Args:
        answered: bool [n].
        correct: bool [n].

    Raises:
        MetricInputError: the input is malformed.
    """
    given, right = flags(answered=answered, correct=correct)
    return Share(int((given & right).sum()), int(given.sum()))
