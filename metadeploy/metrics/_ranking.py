"""Metrics of how well doubt ranks errors above right answers, over all questions and within categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from metadeploy.metrics._inputs import BoolArray, FloatArray, MetricInputError, labels, same_length, scored

__all__ = [
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


def auroc(doubt: ArrayLike, base_correct: ArrayLike) -> float | None:
    """How often an error is doubted more than a right answer, over all pairs of the two; an equal doubt counts half.

    With R the sum of the ranks of the W errors among all doubts, (R − W·(W+1)/2) / (W · right answers). Range 0 to 1,
    higher is better, 0.5 is no information. By ranks, because the bootstrap asks thousands of times; the same number as
    scikit-learn's ``roc_auc_score``.

    Source: Hanley and McNeil, "The meaning and use of the area under a receiver operating characteristic curve", 1982.

    Returns:
        The area; None where there is no error or no right answer.
    """
    doubts, right = scored(doubt, base_correct)
    rights = int(right.sum())
    wrongs = len(right) - rights
    if not rights or not wrongs:
        return None
    won = rankdata(doubts)[~right].sum() - wrongs * (wrongs + 1) / 2
    return float(won / (wrongs * rights))


def auprc(doubt: ArrayLike, base_correct: ArrayLike) -> float | None:
    """Average precision with which doubt finds the base's errors: Σ (recall step) · (precision there).

    Thresholds fall over the distinct doubts, so ties are one step. Range 0 to 1, higher is better; a score without
    information has the error rate, so compare only on the same questions.

    Source: scikit-learn's ``average_precision_score`` (step-wise, without interpolation).

    Returns:
        The area; None where there is no error or no right answer.
    """
    doubts, right = scored(doubt, base_correct)
    if right.all() or not right.any():
        return None
    return float(average_precision_score(~right, doubts))


@dataclass(frozen=True)
class RiskCoverage:
    """A point for each number of answered questions k = 1 … n.

    Attributes:
        coverage: float64 [n], k / n, ascending.
        risk: float64 [n], the expected share of wrong answers among the k least doubted questions.
    """

    coverage: FloatArray
    risk: FloatArray

    @property
    def selective_accuracy(self) -> FloatArray:
        """Float64 [n], 1 − risk."""
        return 1 - self.risk


def risk_coverage(doubt: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """Answer the k least doubted questions: how many of the answers are wrong, for every k.

    Risk 0 to 1, lower is better. Questions of equal doubt have no order, so the curve is the mean over all orders of
    them: the number of errors grows linearly within a tie. A constant score thus gives the flat line of the error rate.

    Source: Geifman and El-Yaniv, "Selective classification for deep neural networks", 2017.

    Args:
        doubt: float [n], finite; only its order matters.
        correct: bool [n], whether the answer is right that is given if one is given.

    Returns:
        The curve; empty without questions.
    """
    right = expected_right(*scored(doubt, correct))
    answered = np.arange(1, len(right))
    return RiskCoverage(coverage=answered / max(len(answered), 1), risk=1 - right[1:] / answered)


def expected_right(doubt: FloatArray, correct: BoolArray) -> FloatArray:
    """How many right ones to expect among the k least doubted, with ties in random order.

    Args:
        doubt: float64 [n], finite.
        correct: bool [n].

    Returns:
        Float64 [n + 1], for k = 0 … n.
    """
    order = np.argsort(doubt)
    ordered = doubt[order]
    tie_ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) + 1 if len(order) else np.empty(0, np.intp)
    known = np.concatenate(([0], tie_ends))
    right = np.concatenate(([0], np.cumsum(correct[order])))
    return np.interp(np.arange(len(order) + 1), known, right[known])


def aurc(doubt: ArrayLike, correct: ArrayLike) -> float | None:
    """Mean risk over all coverages: (1/n) · Σ risk at k answered questions, k = 1 … n, ties averaged.

    Range 0 to 1, lower is better. A score without information has the error rate; the best possible value is not 0
    where there are errors, which is what E-AURC and PRR allow for.

    Source: Geifman, Uziel and El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers", 2019.

    Returns:
        The area; None without questions.
    """
    risk = risk_coverage(doubt, correct).risk
    return float(risk.mean()) if len(risk) else None


def e_aurc(doubt: ArrayLike, correct: ArrayLike) -> float | None:
    """AURC − AURC of the oracle, which doubts the wrong answers and no others.

    Range 0 to 1, lower is better, 0 for a perfect order. The oracle's area is that of these n questions and not its
    limit r + (1 − r) · ln(1 − r), so that 0 is reached.

    Source: Geifman, Uziel and El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers", 2019.

    Returns:
        The excess; None without questions.
    """
    doubts, right = scored(doubt, correct)
    area, best = aurc(doubts, right), aurc(~right, right)
    # the two may differ by rounding where the order is perfect
    return None if area is None or best is None else max(0.0, area - best)


def prr(doubt: ArrayLike, correct: ArrayLike) -> float | None:
    """How far a score gets from random to perfect: (random − area) / (random − oracle).

    The areas are those under the risk–coverage curve; random order has the error rate. 1 is the perfect order, 0 is
    random, below 0 is worse than random (the lowest possible value depends on the error rate). Higher is better.

    Source: Malinin and Gales, "Uncertainty estimation in autoregressive structured prediction", 2021, over the risk of
    what is kept, as LM-Polygraph has it.

    Returns:
        The ratio; None where all answers are right, all are wrong, or there are none.
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
    """Accuracy over the least doubted questions, as many of them as the coverage says.

    With k = coverage · n: the expected number of right ones among the first k / k. Ties are in random order, and a k
    between two whole numbers takes that part of the next question, so nothing depends on the order of the input and
    nothing is gained by a lucky cut. Range 0 to 1, higher is better.

    Args:
        doubt: float [n], finite; only its order matters.
        correct: bool [n].
        coverage: above 0, at most 1.

    Returns:
        The accuracy; None without questions.

    Raises:
        MetricInputError: the input is malformed, or the coverage out of range.
    """
    (found,) = selective_accuracies_at(doubt, correct, coverages=(coverage,))
    return found


def selective_accuracies_at(doubt: ArrayLike, correct: ArrayLike, *, coverages: Sequence[float]) -> list[float | None]:
    """`selective_accuracy_at` for each of several coverages, for little more than the time of one."""
    for coverage in coverages:
        if not 0 < coverage <= 1:
            raise MetricInputError(f"selective_accuracy_at: coverage is {coverage}, expected above 0 and at most 1")
    right = expected_right(*scored(doubt, correct))
    n = len(right) - 1
    if not n:
        return [None] * len(coverages)
    answered = np.asarray(coverages) * n
    found: list[float | None] = (np.interp(answered, np.arange(n + 1), right) / answered).tolist()
    return found


@dataclass(frozen=True)
class CategoryPairs:
    """What the AUROC of each category is made of.

    Attributes:
        names: the K categories, sorted.
        wrong: intp [K], the base's errors.
        right: intp [K], its right answers.
        won: float64 [K], pairs in which the error is doubted more; equal doubts count half.
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
    # sorted by category and then by doubt, so that one ranking serves all categories
    _, levels = np.unique(doubts, return_inverse=True)
    sizes = np.bincount(codes, minlength=len(names))
    below = np.cumsum(sizes) - sizes
    ranks = rankdata(codes * max(len(codes), 1) + levels) - below[codes]
    wrongs = np.bincount(codes[~right], minlength=len(names))
    rank_sums = np.bincount(codes, weights=np.where(right, 0.0, ranks), minlength=len(names))
    return CategoryPairs(names, wrongs, sizes - wrongs, rank_sums - wrongs * (wrongs + 1) / 2)


def macro_auroc(doubt: ArrayLike, base_correct: ArrayLike, category: ArrayLike, *, min_each: int = 5) -> float | None:
    """Mean over categories of the AUROC inside the category; every category weighs the same.

    Range 0 to 1, higher is better. A doubt that only knows how often the base errs in each category has 0.5 here,
    however good its overall AUROC.

    Args:
        doubt: float [n], finite; only its order within a category matters.
        base_correct: bool [n].
        category: text or whole numbers [n].
        min_each: a category counts with at least so many errors and so many right answers, at least 1; with fewer
            its own AUROC is noise.

    Returns:
        The mean; None where no category counts.
    """
    pairs = category_pairs(doubt, base_correct, category)
    counts = qualified(pairs, min_each)
    if not counts.any():
        return None
    return float(np.mean(pairs.won[counts] / (pairs.wrong[counts] * pairs.right[counts])))


def qualified(pairs: CategoryPairs, min_each: int) -> BoolArray:
    """Say which categories have enough of both, bool [K].

    Raises:
        MetricInputError: ``min_each`` is below 1.
    """
    if min_each < 1:
        raise MetricInputError(f"macro_auroc: min_each is {min_each}, expected at least 1")
    return (pairs.wrong >= min_each) & (pairs.right >= min_each)


def pooled_auroc(doubt: ArrayLike, base_correct: ArrayLike, category: ArrayLike) -> float | None:
    """How often an error is doubted more than a right answer of the same category; an equal doubt counts half.

    All pairs inside all categories weigh the same, so large and mixed categories weigh most: the complement of
    `macro_auroc`. Range 0 to 1, higher is better, 0.5 is no information beyond the category.

    Args:
        doubt: float [n], finite; only its order within a category matters.
        base_correct: bool [n].
        category: text or whole numbers [n].

    Returns:
        The share of pairs; None where no category has both an error and a right answer.
    """
    pairs = category_pairs(doubt, base_correct, category)
    total = (pairs.wrong * pairs.right).sum()
    return float(pairs.won.sum() / total) if total else None
