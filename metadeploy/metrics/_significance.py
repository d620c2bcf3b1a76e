"""Paired comparisons of two ways of declining, on the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

from metadeploy.metrics._inputs import (
    BoolArray,
    FloatArray,
    MetricInputError,
    flags,
    labels,
    same_length,
    scored,
    scores,
)
from metadeploy.metrics._intervals import bootstrap_values, percentile_interval
from metadeploy.metrics._proportions import selective_accuracy
from metadeploy.metrics._ranking import auroc, macro_auroc
from metadeploy.proportion import Interval, Share

__all__ = [
    "AUROCDifference",
    "MatchedCoverage",
    "McNemar",
    "auroc_difference",
    "holm",
    "matched_coverage",
    "mcnemar",
]


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of two methods on the same questions.

    Attributes:
        only_first: number of questions on which only the first method succeeds.
        only_second: number of questions on which only the second method succeeds.
        p_value: two-sided probability of a difference at least this large if neither method is better.
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Test whether two methods succeed equally often on the same questions.

    Only questions on which the methods differ count. If neither is better, each of them favors either method with
    probability ½. p is the two-sided binomial probability, 0 to 1; low if the methods differ, 1 if they never do.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions", 1947; the exact
    form.

    Args:
        first: bool [n], success of the first method.
        second: bool [n], success of the second method.
    """
    success1, success2 = flags(first=first, second=second)
    only_first, only_second = int((success1 & ~success2).sum()), int((success2 & ~success1).sum())
    discordant = only_first + only_second
    return McNemar(only_first, only_second, float(binomtest(only_first, discordant).pvalue) if discordant else 1.0)


@dataclass(frozen=True)
class AUROCDifference:
    """The difference of the AUROCs of two scores.

    Attributes:
        value: AUROC of the first score − AUROC of the second, −1 to 1.
        interval: 95 % interval; None if too many draws have no error or no right answer.
        p_value: two-sided p-value of no difference; None if the interval is None.
    """

    value: float
    interval: Interval | None
    p_value: float | None


def auroc_difference(
    first: ArrayLike,
    second: ArrayLike,
    base_correct: ArrayLike,
    *,
    category: ArrayLike | None = None,
    entity: ArrayLike | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> AUROCDifference | None:
    """Compare two scores of the same questions by a paired bootstrap, with the draws of `bootstrap_interval`.

    With ``category``, compares the mean AUROCs within categories (`macro_auroc`).

    The interval is the percentile interval. p is twice the smaller proportion of draws on either side of 0. Draws at 0
    count on both sides, and the sample itself counts as one more draw, so p is at least 2 / (n_resamples + 1).

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993; Field and Welsh, "Bootstrapping clustered
    data", 2007.

    Args:
        first: float [n], finite; a doubt score.
        second: float [n], finite; another doubt score.
        base_correct: bool [n].
        category: text or whole numbers [n]; None compares the AUROCs over all questions.
        entity: as in `bootstrap_interval`.
        n_resamples: number of draws, at least 1.
        seed: seed of the draws.

    Returns:
        The difference; None if there is no error or no right answer, or if no category counts.
    """
    doubt1, doubt2 = scores(first=first, second=second)
    (right,) = flags(base_correct=base_correct)
    same_length(first=doubt1, base_correct=right)

    kinds = None if category is None else np.unique(labels(category), return_inverse=True)[1]
    same_length(base_correct=right, **({} if kinds is None else {"category": kinds}))

    def score(doubt: FloatArray, at: NDArray[np.intp]) -> float | None:
        return auroc(doubt[at], right[at]) if kinds is None else macro_auroc(doubt[at], right[at], kinds[at])

    def difference(at: NDArray[np.intp]) -> float | None:
        auroc1, auroc2 = score(doubt1, at), score(doubt2, at)
        return None if auroc1 is None or auroc2 is None else auroc1 - auroc2

    value = difference(np.arange(len(right)))
    if value is None:
        return None
    differences = bootstrap_values(difference, len(right), entity=entity, n_resamples=n_resamples, seed=seed)
    interval = percentile_interval(differences, n_resamples)
    tail = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return AUROCDifference(value, interval, min(1.0, 2 * (tail + 1) / (len(differences) + 1)) if interval else None)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of several comparisons, so that the probability of any false finding stays below the level.

    The i-th smallest of m is multiplied by m − i + 1, and becomes no smaller than the adjusted ones before it, and at
    most 1.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Args:
        p_values: float [m] in [0, 1].

    Raises:
        MetricInputError: a value is not in [0, 1].
    """
    values = np.asarray(p_values, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise MetricInputError("holm: a p-value is not in [0, 1]")
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    return [float(value) for value in adjusted]


@dataclass(frozen=True)
class MatchedCoverage:
    """Two methods that answer equally many questions.

    Attributes:
        first: selective accuracy of the first method.
        second: selective accuracy of the second method, with the same total.
        first_answered: bool [n], the questions that the first method answers.
        second_answered: bool [n], the questions that the second method answers.
        test: McNemar's exact test of "answered and right", which treats questions as independent.
    """

    first: Share
    second: Share
    first_answered: BoolArray
    second_answered: BoolArray
    test: McNemar


def matched_coverage(
    first: ArrayLike,
    first_correct: ArrayLike,
    second: ArrayLike,
    second_correct: ArrayLike,
    *,
    n_answered: int,
    seed: int = 0,
) -> MatchedCoverage:
    """Let each of two scores answer its least doubted questions, equally many, and compare the right answers.

    Because both answer the same number, a test of the number of right answers is also a test of selective accuracy.
    Ties at the cut are broken at random, in the same random order for both.

    Args:
        first: float [n], finite; doubt of the first method.
        first_correct: bool [n], whether its answers are right, if they are given.
        second: float [n], finite; doubt of the second method.
        second_correct: bool [n].
        n_answered: number of questions that each method answers, 0 to n.
        seed: seed of the random order of ties.

    Raises:
        MetricInputError: the input is malformed, or ``n_answered`` is out of range.
    """
    doubt1, right1 = scored(first, first_correct)
    doubt2, right2 = scored(second, second_correct)
    same_length(first=doubt1, second=doubt2)
    n = len(doubt1)
    if not 0 <= n_answered <= n:
        raise MetricInputError(f"matched_coverage: n_answered is {n_answered}, expected 0 to {n}, the questions")
    tie_order = np.random.default_rng(seed).permutation(n)
    answered1, answered2 = (_least_doubted(doubt, tie_order, n_answered) for doubt in (doubt1, doubt2))
    return MatchedCoverage(
        selective_accuracy(answered1, right1),
        selective_accuracy(answered2, right2),
        answered1,
        answered2,
        mcnemar(answered1 & right1, answered2 & right2),
    )


def _least_doubted(doubt: FloatArray, tie_order: NDArray[np.int64], count: int) -> BoolArray:
    answered = np.zeros(len(doubt), np.bool_)
    answered[np.lexsort((tie_order, doubt))[:count]] = True
    return answered
