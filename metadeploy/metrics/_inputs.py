"""What every metric asks of its input, and how it says so; the package's docstring defines the arrays."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metadeploy.errors import Error

__all__ = ["BoolArray", "FloatArray", "MetricInputError", "flags", "labels", "same_length", "scored", "scores"]

BoolArray: TypeAlias = NDArray[np.bool_]
FloatArray: TypeAlias = NDArray[np.float64]


class MetricInputError(Error, ValueError):
    """What was handed to a metric is not what it measures."""


def same_length(**arrays: NDArray[Any]) -> None:
    """Check that all have an entry for each question.

    Raises:
        MetricInputError: they differ; the message names the first that does.
    """
    (first, model), *others = arrays.items()
    for name, array in others:
        if len(array) != len(model):
            raise MetricInputError(
                f"metric input '{name}': {len(array)} entries, expected {len(model)} as '{first}' has (one a question)"
            )


def flags(**arrays: ArrayLike) -> tuple[BoolArray, ...]:
    """Take each as bool [n].

    Raises:
        MetricInputError: one is not one-dimensional, not bool, or of another length.
    """
    found = {name: _vector(name, values) for name, values in arrays.items()}
    for name, array in found.items():
        if array.size and array.dtype != np.bool_:
            raise MetricInputError(f"metric input '{name}': elements are {array.dtype}, expected bool")
    same_length(**found)
    return tuple(array.astype(np.bool_, copy=False) for array in found.values())


def scores(*, probability: bool = False, **arrays: ArrayLike) -> tuple[FloatArray, ...]:
    """Take each as float64 [n], finite, and in [0, 1] if it is to be a probability.

    Raises:
        MetricInputError: one is not one-dimensional, not a number somewhere, out of range, or of another length.
    """
    found = {name: _numbers(name, values, probability) for name, values in arrays.items()}
    same_length(**found)
    return tuple(found.values())


def scored(doubt: ArrayLike, correct: ArrayLike, *, probability: bool = False) -> tuple[FloatArray, BoolArray]:
    """Take a doubt score and what it should foresee, of one length."""
    (doubts,) = scores(doubt=doubt, probability=probability)
    (rights,) = flags(correct=correct)
    same_length(doubt=doubts, correct=rights)
    return doubts, rights


def labels(values: ArrayLike, *, name: str = "category") -> NDArray[Any]:
    """Take kinds of questions, or what these are about, as an array [n] of text or of whole numbers.

    Raises:
        MetricInputError: it is not one-dimensional, or holds something else.
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
        raise MetricInputError(f"metric input '{name}': {error}, expected one entry a question") from error
    if array.ndim != 1:
        raise MetricInputError(f"metric input '{name}': shape {list(array.shape)}, expected one dimension")
    return array


def _numbers(name: str, values: ArrayLike, probability: bool) -> FloatArray:
    array = _vector(name, values)
    try:
        array = array.astype(np.float64, copy=False)
    except (TypeError, ValueError):
        raise MetricInputError(f"metric input '{name}': elements are {array.dtype}, expected numbers") from None
    # one comparison finds NaN as well
    bound = 1.0 if probability else np.finfo(np.float64).max
    sound = (array >= (0.0 if probability else -bound)) & (array <= bound)
    if not sound.all():
        at = int(np.argmin(sound))
        expected = "a probability from 0 to 1" if probability else "a finite number"
        raise MetricInputError(f"metric input '{name}': {array[at]} at index {at}, expected {expected}")
    return array
