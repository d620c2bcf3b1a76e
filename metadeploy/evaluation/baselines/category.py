"""A baseline that knows only the kind of question."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["category_doubt"]


def category_doubt(train_category: ArrayLike, train_correct: ArrayLike, category: ArrayLike) -> NDArray[np.float64]:
    """Return the base's error rate on the training questions of the same category.

    Args:
        train_category: text [m], m at least 1.
        train_correct: bool [m], whether the base was right.
        category: text [n].

    Returns:
        Float64 [n] in [0, 1]; for a category without training questions, the error rate of all training questions.
    """
    names, codes = np.unique(np.asarray(train_category), return_inverse=True)
    wrong = ~np.asarray(train_correct, dtype=np.bool_)
    rates = np.bincount(codes, weights=wrong) / np.bincount(codes)
    rate_of = dict(zip(names.tolist(), rates.tolist(), strict=True))
    return np.array([rate_of.get(name, wrong.mean()) for name in np.asarray(category).tolist()], dtype=np.float64)
