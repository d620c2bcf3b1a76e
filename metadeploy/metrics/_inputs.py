"""Checks of the arrays that metrics take. The package's docstring defines these arrays."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metadeploy.errors import Error

__all__ = ["BoolArray", "FloatArray", "MetricInputError", "flags", "labels", "same_length", "scored", "scores"]

BoolArray: TypeAlias = NDArray[np.bool_]
FloatArray: TypeAlias = NDArray[np.float64]


class MetricInputError(Error, ValueError):
    """The input of a metric is malformed."""


def same_length(**arrays: NDArray[Any]) -> None:
    """Check that all arrays have the same length.

    Raises:
        MetricInputError: the lengths differ. The message names the first array that differs.
    """
    (first_name, first), *rest = arrays.items()
    for name, array in rest:
        if len(array) != len(first):
            raise MetricInputError(
                f"metric input '{name}': {len(array)} entries, expected {len(first)} like '{first_name}' "
                "(one for each question)"
            )


def flags(**arrays: ArrayLike) -> tuple[BoolArray, ...]:
    """Convert each input to bool [n].

    Raises:
        MetricInputError: an input does not have one dimension, is not bool, or has another length.
    """
    vectors = {name: _vector(name, values) for name, values in arrays.items()}
    for name, array in vectors.items():
        if array.size and array.dtype != np.bool_:
            raise MetricInputError(f"metric input '{name}': elements are {array.dtype}, expected bool")
    same_length(**vectors)
    return tuple(array.astype(np.bool_, copy=False) for array in vectors.values())


def scores(*, probability: bool = False, **arrays: ArrayLike) -> tuple[FloatArray, ...]:
    """Convert each input to float64 [n]. Values must be finite, and in [0, 1] if they are probabilities.

    Raises:
        MetricInputError: an input does not have one dimension, has a value that is not a number or is out of range, or
            has another length.
    """
    vectors = {name: _numbers(name, values, probability) for name, values in arrays.items()}
    same_length(**vectors)
    return tuple(vectors.values())


def scored(doubt: ArrayLike, correct: ArrayLike, *, probability: bool = False) -> tuple[FloatArray, BoolArray]:
    """Convert a doubt score and the outcome that it should predict, of the same length."""
    (doubts,) = scores(doubt=doubt, probability=probability)
    (right,) = flags(correct=correct)
    same_length(doubt=doubts, correct=right)
    return doubts, right


def labels(values: ArrayLike, *, name: str = "category") -> NDArray[Any]:
    """Convert categories or entities to an array [n] of text or of whole numbers.

    Raises:
        MetricInputError: the input does not have one dimension, or has elements of another type.
    """
    array = _vector(name, values)
    if array.size and array.dtype.kind == "O" and all(isinstance(label, str) for label in array):
        return array.astype(np.str_)
    if array.size and array.dtype.kind not in "Uiu":
        raise MetricInputError(f"metric input '{name}': elements are {array.dtype}, expected text or whole numbers")
    return array


def _vector(name: str, values: ArrayLike) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except ValueError as error:  # ragged
        raise MetricInputError(f"metric input '{name}': {error}, expected one entry for each question") from error
    if array.ndim != 1:
        raise MetricInputError(f"metric input '{name}': shape {list(array.shape)}, expected one dimension")
    return array


def _numbers(name: str, values: ArrayLike, probability: bool) -> FloatArray:
    array = _vector(name, values)
    try:
        array = array.astype(np.float64, copy=False)
    except (TypeError, ValueError):
        raise MetricInputError(f"metric input '{name}': elements are {array.dtype}, expected numbers") from None
    # the comparison is False for NaN as well
    bound = 1.0 if probability else np.finfo(np.float64).max
    valid = (array >= (0.0 if probability else -bound)) & (array <= bound)
    if not valid.all():
        at = int(np.argmin(valid))
        expected = "a probability from 0 to 1" if probability else "a finite number"
        raise MetricInputError(f"metric input '{name}': {array[at]} at index {at}, expected {expected}")
    return array
