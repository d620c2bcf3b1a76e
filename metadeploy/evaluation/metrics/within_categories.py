"""What doubt knows beyond the kind of question: pairs of an error and a right answer inside each category."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from metadeploy.evaluation.metrics.inputs import FloatArray, labels, same_length, scored

__all__ = ["CategoryPairs", "category_pairs"]


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

    Raises:
        MetricInputError: the input is malformed.
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
