"""Metrics of how well doubt ranks errors above right answers, over all questions and within categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from metadeploy.metrics._inputs import BoolArray, FloatArray, MetricInputError, labels, same_length, scored

__all__ = [
    "MIN_EACH",
    "CategoryPairs",
    "RiskCoverage",
    "auprc",
    "aurc",
    "auroc",
    "category_pairs",
    "e_aurc",
    "expected_right",
    "macro_auroc",
    "pooled_auroc",
    "prr",
    "qualified",
    "risk_coverage",
    "selective_accuracies_at",
    "selective_accuracy_at",
]

#: Minimum number of errors, and of right answers, for the AUROC of a category.
MIN_EACH: Final = 5


def auroc(doubt: ArrayLike, base_correct: ArrayLike) -> float | None:
    """Probability that a random error has more doubt than a random right answer; equal doubts count half.

    (R − W·(W+1)/2) / (W · right answers), where R is the sum of the ranks of the W errors among all doubts. Range 0 to
    1, higher is better, 0.5 is no information. This is the same number as scikit-learn's ``roc_auc_score``; ranks are
    faster, and the bootstrap computes it thousands of times.

    Source: Hanley and McNeil, "The meaning and use of the area under a receiver operating characteristic curve", 1982.

    Returns:
        The area; None if there is no error or no right answer.
    """
    doubts, right = scored(doubt, base_correct)
    n_right = int(right.sum())
    n_wrong = len(right) - n_right
    if not n_right or not n_wrong:
        return None
    n_won = rankdata(doubts)[~right].sum() - n_wrong * (n_wrong + 1) / 2
    return float(n_won / (n_wrong * n_right))


def auprc(doubt: ArrayLike, base_correct: ArrayLike) -> float | None:
    """Average precision with which doubt finds the base's errors: Σ (step in recall) · (precision at this step).

    The thresholds are the distinct doubts in descending order, so ties are one step. Range 0 to 1, higher is better. A
    score without information has the error rate, so compare values only for the same questions.

    Source: scikit-learn's ``average_precision_score`` (step-wise, without interpolation).

    Returns:
        The area; None if there is no error or no right answer.
    """
    doubts, right = scored(doubt, base_correct)
    if right.all() or not right.any():
        return None
    return float(average_precision_score(~right, doubts))


@dataclass(frozen=True)
class RiskCoverage:
    """The risk–coverage curve, with a point for each number of answered questions k = 1 … n.

    Attributes:
        coverage: float64 [n], k / n, ascending.
        risk: float64 [n], the expected proportion of wrong answers among the k least doubted questions.
    """

    coverage: FloatArray
    risk: FloatArray

    @property
    def selective_accuracy(self) -> FloatArray:
        """Float64 [n], 1 − risk."""
        return 1 - self.risk


def risk_coverage(doubt: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """Compute the proportion of errors among the k least doubted questions, for every k.

    Risk 0 to 1, lower is better. Questions with equal doubt have no order, so the curve is the mean over all their
    orders: the number of errors grows linearly within a tie. A constant score gives a flat line at the error rate.

    Source: Geifman and El-Yaniv, "Selective classification for deep neural networks", 2017.

    Args:
        doubt: float [n], finite; only its order matters.
        correct: bool [n], whether the answer is right, if it is given.

    Returns:
        The curve; empty without questions.
    """
    right = expected_right(*scored(doubt, correct))
    answered = np.arange(1, len(right))
    return RiskCoverage(coverage=answered / max(len(answered), 1), risk=1 - right[1:] / answered)


def expected_right(doubt: FloatArray, correct: BoolArray) -> FloatArray:
    """Return the expected number of right answers among the k least doubted questions, with ties in random order.

    Args:
        doubt: float64 [n], finite.
        correct: bool [n].

    Returns:
        Float64 [n + 1], for k = 0 … n.
    """
    indices = np.argsort(doubt)
    ordered = doubt[indices]
    tie_ends = (
        np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) + 1 if len(ordered) else np.empty(0, np.intp)
    )
    exact = np.concatenate(([0], tie_ends))
    right = np.concatenate(([0], np.cumsum(correct[indices])))
    return np.interp(np.arange(len(ordered) + 1), exact, right[exact])


def aurc(doubt: ArrayLike, correct: ArrayLike) -> float | None:
    """Mean risk over all coverages: (1/n) · Σ risk at k answered questions, k = 1 … n, ties averaged.

    Range 0 to 1, lower is better. A score without information has the error rate. If there are errors, the best
    possible value is above 0; E-AURC and PRR correct for this.

    Source: Geifman, Uziel and El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers", 2019.

    Returns:
        The area; None without questions.
    """
    risk = risk_coverage(doubt, correct).risk
    return float(risk.mean()) if len(risk) else None


def e_aurc(doubt: ArrayLike, correct: ArrayLike) -> float | None:
    """AURC − AURC of the oracle, which doubts exactly the wrong answers.

    Range 0 to 1, lower is better, 0 for a perfect order. The oracle's area is computed for these n questions, not by
    its limit r + (1 − r) · ln(1 − r), so that a perfect order reaches 0.

    Source: Geifman, Uziel and El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers", 2019.

    Returns:
        The excess; None without questions.
    """
    doubts, right = scored(doubt, correct)
    area, best = aurc(doubts, right), aurc(~right, right)
    # if the order is perfect, the two may differ by rounding
    return None if area is None or best is None else max(0.0, area - best)


def prr(doubt: ArrayLike, correct: ArrayLike) -> float | None:
    """Prediction rejection ratio: (random − area) / (random − oracle).

    These are areas under the risk–coverage curve; random order has the error rate. 1 is the perfect order, 0 is random,
    below 0 is worse than random (the lowest possible value depends on the error rate). Higher is better.

    Source: Malinin and Gales, "Uncertainty estimation in autoregressive structured prediction", 2021, with the risk of
    the answered questions, as in LM-Polygraph.

    Returns:
        The ratio; None if all answers are right, all are wrong, or there are none.
    """
    doubts, right = scored(doubt, correct)
    if right.all() or not right.any():
        return None
    random = 1 - float(right.mean())
    area, best = aurc(doubts, right), aurc(~right, right)
    assert area is not None
    assert best is not None
    return (random - area) / (random - best)


def selective_accuracy_at(doubt: ArrayLike, correct: ArrayLike, *, coverage: float) -> float | None:
    """Accuracy over the least doubted questions, at a given coverage.

    With k = coverage · n: the expected number of right answers among the first k / k. Ties are in random order. If k is
    not a whole number, the next question counts in part. So the result does not depend on the order of the input or on
    a lucky cut. Range 0 to 1, higher is better.

    Args:
        doubt: float [n], finite; only its order matters.
        correct: bool [n].
        coverage: above 0, at most 1.

    Returns:
        The accuracy; None without questions.

    Raises:
        MetricInputError: the input is malformed, or the coverage is out of range.
    """
    (accuracy,) = selective_accuracies_at(doubt, correct, coverages=(coverage,))
    return accuracy


def selective_accuracies_at(doubt: ArrayLike, correct: ArrayLike, *, coverages: Sequence[float]) -> list[float | None]:
    """Compute `selective_accuracy_at` for several coverages, in little more time than for one."""
    for coverage in coverages:
        if not 0 < coverage <= 1:
            raise MetricInputError(f"selective_accuracy_at: coverage is {coverage}, expected above 0 and at most 1")
    right = expected_right(*scored(doubt, correct))
    n = len(right) - 1
    if not n:
        return [None] * len(coverages)
    answered = np.asarray(coverages) * n
    accuracies: list[float | None] = (np.interp(answered, np.arange(n + 1), right) / answered).tolist()
    return accuracies


@dataclass(frozen=True)
class CategoryPairs:
    """The counts from which the AUROC of each category is computed.

    Attributes:
        names: the K categories, sorted.
        wrong: intp [K], number of the base's errors.
        right: intp [K], number of its right answers.
        won: float64 [K], number of pairs in which the error has more doubt; equal doubts count half.
    """

    names: NDArray[Any]
    wrong: NDArray[np.intp]
    right: NDArray[np.intp]
    won: FloatArray


def category_pairs(doubt: ArrayLike, base_correct: ArrayLike, category: ArrayLike) -> CategoryPairs:
    """Compare each error with each right answer of its category.

    Args:
        doubt: float [n], finite; only its order within a category matters.
        base_correct: bool [n].
        category: text or whole numbers [n].
    """
    doubts, right = scored(doubt, base_correct)
    kinds = labels(category)
    same_length(doubt=doubts, category=kinds)
    names, codes = np.unique(kinds, return_inverse=True)
    # one ranking by category and then by doubt gives the ranks within all categories
    _, levels = np.unique(doubts, return_inverse=True)
    sizes = np.bincount(codes, minlength=len(names))
    below = np.cumsum(sizes) - sizes
    ranks = rankdata(codes * max(len(codes), 1) + levels) - below[codes]
    n_wrong = np.bincount(codes[~right], minlength=len(names))
    rank_sums = np.bincount(codes, weights=np.where(right, 0.0, ranks), minlength=len(names))
    return CategoryPairs(names, n_wrong, sizes - n_wrong, rank_sums - n_wrong * (n_wrong + 1) / 2)


def macro_auroc(
    doubt: ArrayLike, base_correct: ArrayLike, category: ArrayLike, *, min_each: int = MIN_EACH
) -> float | None:
    """Mean over categories of the AUROC within the category; every category has the same weight.

    Range 0 to 1, higher is better. A doubt that only knows the error rate of each category has 0.5 here, however good
    its overall AUROC is.

    Args:
        doubt: float [n], finite; only its order within a category matters.
        base_correct: bool [n].
        category: text or whole numbers [n].
        min_each: minimum number of errors, and of right answers, for a category to count; at least 1. With fewer, the
            AUROC of the category is noise.

    Returns:
        The mean; None if no category counts.
    """
    pairs = category_pairs(doubt, base_correct, category)
    counts = qualified(pairs, min_each)
    if not counts.any():
        return None
    return float(np.mean(pairs.won[counts] / (pairs.wrong[counts] * pairs.right[counts])))


def qualified(pairs: CategoryPairs, min_each: int) -> BoolArray:
    """Return which categories have enough errors and enough right answers, bool [K].

    Raises:
        MetricInputError: ``min_each`` is below 1.
    """
    if min_each < 1:
        raise MetricInputError(f"macro_auroc: min_each is {min_each}, expected at least 1")
    return (pairs.wrong >= min_each) & (pairs.right >= min_each)


def pooled_auroc(doubt: ArrayLike, base_correct: ArrayLike, category: ArrayLike) -> float | None:
    """Probability that an error has more doubt than a right answer of the same category; equal doubts count half.

    All pairs within all categories have the same weight, so large and mixed categories have the most weight, unlike in
    `macro_auroc`. Range 0 to 1, higher is better, 0.5 is no information beyond the category.

    Args:
        doubt: float [n], finite; only its order within a category matters.
        base_correct: bool [n].
        category: text or whole numbers [n].

    Returns:
        The proportion of pairs; None if no category has both an error and a right answer.
    """
    pairs = category_pairs(doubt, base_correct, category)
    total = (pairs.wrong * pairs.right).sum()
    return float(pairs.won.sum() / total) if total else None
