"""Mean over training seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.typing import ArrayLike
from scipy.stats import t

from metadeploy.evaluation.metrics.inputs import scores
from metadeploy.proportion import Interval

__all__ = ["SeedMean", "seed_mean"]


@dataclass(frozen=True)
class SeedMean:
    """One figure over several runs.

    Attributes:
        mean: of the runs.
        interval: 95 %, for the mean; None for a single run.
        n: number of runs.
    """

    mean: float
    interval: Interval | None
    n: int


def seed_mean(values: ArrayLike) -> SeedMean | None:
    """Mean of a figure over seeds, with Student's interval: mean ± t(0.975; n − 1) · s / √n.

    It says how much the figure varies with the training's randomness, not with the choice of questions.

    Source: Student, "The probable error of a mean", 1908.

    Args:
        values: float [n], finite, one for each seed.

    Returns:
        Mean and interval; None without values.

    Raises:
        MetricInputError: the input is malformed.
    """
    (runs,) = scores(values=values)
    n = len(runs)
    if not n:
        return None
    mean = float(runs.mean())
    if n == 1:
        return SeedMean(mean, None, 1)
    spread = float(t.ppf(0.975, n - 1) * runs.std(ddof=1) / math.sqrt(n))
    return SeedMean(mean, Interval(mean - spread, mean + spread), n)
