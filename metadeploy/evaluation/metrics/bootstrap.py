"""Bootstrap intervals: what the result might have been with other questions of the same sort."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from metadeploy.evaluation.metrics.inputs import FloatArray, MetricInputError
from metadeploy.evaluation.share import Interval

__all__ = ["Statistic", "bootstrap_interval", "bootstrap_values", "percentile_interval"]

#: Takes indices of questions, intp [n], with repetitions; None where it is undefined on them.
Statistic: TypeAlias = Callable[[NDArray[np.intp]], "float | None"]


def bootstrap_interval(statistic: Statistic, n: int, *, n_resamples: int = 2000, seed: int = 0) -> Interval | None:
    """Percentile interval of a statistic, 95 %, by drawing the questions anew with replacement.

    The statistic gets indices and applies them to all of its arrays, so that what belongs to one question stays
    together (paired). The same seed and n draw the same questions for every statistic.

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993.

    Args:
        statistic: of the questions at the given indices.
        n: number of questions.
        n_resamples: how often to draw, at least 1.
        seed: of the draws.

    Returns:
        The interval; None where the statistic is undefined on more than half of the draws (or there are no questions).

    Raises:
        MetricInputError: ``n_resamples`` is below 1.
    """
    return percentile_interval(bootstrap_values(statistic, n, n_resamples=n_resamples, seed=seed), n_resamples)


def bootstrap_values(statistic: Statistic, n: int, *, n_resamples: int, seed: int) -> FloatArray:
    """Compute the statistic of each draw; draws on which it is undefined are left out.

    Args:
        statistic: of the questions at the given indices.
        n: number of questions.
        n_resamples: how often to draw, at least 1.
        seed: of the draws.

    Returns:
        Float64 [at most n_resamples].

    Raises:
        MetricInputError: ``n_resamples`` is below 1.
    """
    if n_resamples < 1:
        raise MetricInputError(f"bootstrap: n_resamples is {n_resamples}, expected at least 1")
    if not n:
        return np.empty(0)
    rng = np.random.default_rng(seed)
    values = (statistic(rng.integers(n, size=n)) for _ in range(n_resamples))
    return np.array([value for value in values if value is not None], dtype=np.float64)


def percentile_interval(values: FloatArray, n_resamples: int) -> Interval | None:
    """Take the middle 95 % of bootstrap values; None where more than half of the draws had none."""
    if 2 * len(values) < n_resamples:
        return None
    low, high = np.quantile(values, (0.025, 0.975))
    return Interval(float(low), float(high))
