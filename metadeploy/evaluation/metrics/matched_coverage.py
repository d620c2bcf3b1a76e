"""Two scores at the same coverage, question by question."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metadeploy.evaluation.metrics.inputs import BoolArray, FloatArray, MetricInputError, same_length, scored
from metadeploy.evaluation.metrics.mcnemar import McNemar, mcnemar
from metadeploy.evaluation.metrics.selective_accuracy import selective_accuracy
from metadeploy.proportion import Share

__all__ = ["MatchedCoverage", "matched_coverage"]


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
