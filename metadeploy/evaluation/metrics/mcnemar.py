"""McNemar's exact test."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike
from scipy.stats import binomtest

from metadeploy.evaluation.metrics.inputs import flags

__all__ = ["McNemar", "mcnemar"]


@dataclass(frozen=True)
class McNemar:
    """Two methods on the same questions.

    Attributes:
        only_first: questions on which the first succeeds and the second does not.
        only_second: the reverse.
        p_value: of a difference at least this large if neither were better; two-sided.
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Test whether two methods succeed equally often on the same questions.

    Only the questions count on which they differ; if neither is better, each of those falls to either side like a
    coin. p = the two-sided binomial probability, 0 to 1, low where they differ; 1 where they never do.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions", 1947; the exact
    form.

    Args:
        first: bool [n], the first method's success.
        second: bool [n], the second's.

    Raises:
        MetricInputError: the input is malformed.
    """
    one, other = flags(first=first, second=second)
    only_first, only_second = int((one & ~other).sum()), int((other & ~one).sum())
    discordant = only_first + only_second
    return McNemar(only_first, only_second, float(binomtest(only_first, discordant).pvalue) if discordant else 1.0)
