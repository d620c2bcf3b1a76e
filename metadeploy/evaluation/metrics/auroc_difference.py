"""The difference of two AUROCs on the same questions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metadeploy.evaluation.metrics.auroc import auroc
from metadeploy.evaluation.metrics.bootstrap import bootstrap_values, percentile_interval
from metadeploy.evaluation.metrics.inputs import flags, same_length, scores
from metadeploy.proportion import Interval

__all__ = ["AUROCDifference", "auroc_difference"]


@dataclass(frozen=True)
class AUROCDifference:
    """By how much the first score ranks errors better than the second.

    Attributes:
        value: AUROC of the first − AUROC of the second, −1 to 1.
        interval: 95 %, None where too many draws lack a class.
        p_value: two-sided, of no difference; None with the interval.
    """

    value: float
    interval: Interval | None
    p_value: float | None


def auroc_difference(
    first: ArrayLike,
    second: ArrayLike,
    base_correct: ArrayLike,
    *,
    entity: ArrayLike | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> AUROCDifference | None:
    """Compare two scores of the same questions by a paired bootstrap, whose draws are those of `bootstrap_interval`.

    The interval is that of the percentiles; p is twice the smaller share of draws on either side of 0, counting 0 on
    both and the sample itself as one more draw, and so never below 2 / (n_resamples + 1).

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993; Field and Welsh, "Bootstrapping clustered
    data", 2007.

    Args:
        first: float [n], finite; a doubt score.
        second: float [n], finite; another one.
        base_correct: bool [n].
        entity: text or whole numbers [n], what a question is about: those of one entity are drawn together; an empty
            text stands for itself, and None for n of these.
        n_resamples: how often to draw the questions anew, at least 1.
        seed: of the draws.

    Returns:
        The difference; None where there is no error or no right answer.

    Raises:
        MetricInputError: the input is malformed.
    """
    one, other = scores(first=first, second=second)
    (right,) = flags(base_correct=base_correct)
    same_length(first=one, base_correct=right)

    def difference(at: NDArray[np.intp]) -> float | None:
        better, worse = auroc(one[at], right[at]), auroc(other[at], right[at])
        return None if better is None or worse is None else better - worse

    value = difference(np.arange(len(right)))
    if value is None:
        return None
    drawn = bootstrap_values(difference, len(right), entity=entity, n_resamples=n_resamples, seed=seed)
    interval = percentile_interval(drawn, n_resamples)
    side = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return AUROCDifference(value, interval, min(1.0, 2 * (side + 1) / (len(drawn) + 1)) if interval else None)
