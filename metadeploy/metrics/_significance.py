"""Paired comparisons of two ways of declining, on the same questions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

from metadeploy.metrics._inputs import BoolArray, FloatArray, MetricInputError, flags, same_length, scored, scores
from metadeploy.metrics._intervals import bootstrap_values, percentile_interval
from metadeploy.metrics._proportions import selective_accuracy
from metadeploy.metrics._ranking import auroc
from metadeploy.proportion import Interval, Share

__all__ = ["AUROCDifference", "MatchedCoverage", "McNemar", "auroc_difference", "matched_coverage", "mcnemar"]


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
    """
    one, other = flags(first=first, second=second)
    only_first, only_second = int((one & ~other).sum()), int((other & ~one).sum())
    discordant = only_first + only_second
    return McNemar(only_first, only_second, float(binomtest(only_first, discordant).pvalue) if discordant else 1.0)


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


@dataclass(frozen=True)
class MatchedCoverage:
    """Two methods that answer equally many questions.

    Attributes:
        first: right of the answered, by the first.
        second: right of the answered, by the second; the same total.
        first_answered: bool [n], which ones the first answers.
        second_answered: bool [n], likewise.
        test: McNemar's exact test of "answered and right", which takes questions as independent of each other.
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
    """Let each of two scores answer its least doubted questions, equally many, and compare what comes out right.

    Both answer the same number, so more right answers and a higher selective accuracy are the same thing, and a paired
    exact test of the one is a test of the other. Questions tied at the cut are drawn by lot, the same lot for both.

    Args:
        first: float [n], finite; doubt of the first method.
        first_correct: bool [n], whether its answers are right if given.
        second: float [n], finite; doubt of the second method.
        second_correct: bool [n].
        n_answered: how many questions each answers, 0 to n.
        seed: of the lot.

    Raises:
        MetricInputError: the input is malformed, or ``n_answered`` out of range.
    """
    one, one_right = scored(first, first_correct)
    other, other_right = scored(second, second_correct)
    same_length(first=one, second=other)
    if not 0 <= n_answered <= len(one):
        raise MetricInputError(f"matched_coverage: n_answered is {n_answered}, expected 0 to {len(one)}, the questions")
    lot = np.random.default_rng(seed).permutation(len(one))
    one_answers, other_answers = _least_doubted(one, lot, n_answered), _least_doubted(other, lot, n_answered)
    return MatchedCoverage(
        selective_accuracy(one_answers, one_right),
        selective_accuracy(other_answers, other_right),
        one_answers,
        other_answers,
        mcnemar(one_answers & one_right, other_answers & other_right),
    )


def _least_doubted(doubt: FloatArray, lot: NDArray[np.int64], count: int) -> BoolArray:
    answered = np.zeros(len(doubt), np.bool_)
    answered[np.lexsort((lot, doubt))[:count]] = True
    return answered
