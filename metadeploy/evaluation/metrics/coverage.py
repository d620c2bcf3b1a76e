"""Coverage."""

from __future__ import annotations

from numpy.typing import ArrayLike

from metadeploy.evaluation.metrics.inputs import flags
from metadeploy.proportion import Share

__all__ = ["coverage"]


def coverage(answered: ArrayLike) -> Share:
    """How much is answered: answered / all.

    Range 0 to 1; higher is better at the same selective accuracy, and means nothing without it. Undefined without
    questions.

    Source: El-Yaniv and Wiener, "On the foundations of noise-free selective classification", 2010.

    Args:
        answered: bool [n].

    Raises:
        MetricInputError: the input is malformed.
    """
    (given,) = flags(answered=answered)
    return Share(int(given.sum()), len(given))
