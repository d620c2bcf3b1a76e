"""A threshold with a guarantee: at most a chosen proportion of the answers is wrong, with a chosen confidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metadeploy.metrics._inputs import BoolArray, FloatArray, MetricInputError, labels, same_length, scored, scores

__all__ = ["Guarantee", "guaranteed_threshold", "most_evident_threshold", "one_per_entity"]


@dataclass(frozen=True)
class Guarantee:
    """A threshold, and what it guarantees.

    Attributes:
        threshold: answer if the score is at most this.
        max_error: α, the guaranteed error rate of the answers.
        delta: probability that the guarantee does not hold.
        coverage: proportion of the calibration questions that are answered.
        n: number of calibration questions that were tested, one for each entity.
    """

    threshold: float
    max_error: float
    delta: float
    coverage: float
    n: int


def one_per_entity(entity: ArrayLike, *, seed: int = 0) -> NDArray[np.intp]:
    """Draw one question for each entity, so that the questions are independent. Return their indices, ascending.

    Args:
        entity: text or numbers [n]; each empty text is an entity of its own.
        seed: seed of the draw.
    """
    entities = labels(entity, name="entity")
    order = np.random.default_rng(seed).permutation(len(entities))
    chosen: dict[object, int] = {}
    for index in order.tolist():
        label = entities[index].item()
        chosen.setdefault(("own", index) if label == "" else label, index)
    return np.array(sorted(chosen.values()), dtype=np.intp)


def guaranteed_threshold(
    score: ArrayLike,
    correct: ArrayLike,
    *,
    candidates: ArrayLike,
    max_error: float,
    delta: float = 0.1,
    start: float | None = None,
    n_starts: int = 6,
) -> Guarantee | None:
    """Find the highest threshold whose error rate is proven to be at most ``max_error``.

    Learn-then-Test with fixed-sequence testing: from ``start`` on, thresholds are tested in ascending order, each at
    level ``delta``, until one fails. Without ``start``, this is done for each of ``n_starts`` evenly spaced candidates,
    at level ``delta`` / ``n_starts``. The test of a
    threshold is the binomial test of "its error rate is above max_error", among the questions that it answers. So the
    probability that any threshold that passes is above ``max_error`` is at most ``delta``, if the calibration
    questions and those of a user are drawn independently from the same distribution.

    Source: Angelopoulos et al., "Learn then Test: calibrating predictive algorithms to achieve risk control", 2021.

    Args:
        score: float [n] on the calibration questions, which must be independent (`one_per_entity`). Higher means more
            doubt.
        correct: bool [n].
        candidates: float [m], thresholds that were chosen without the calibration questions.
        max_error: α, above 0 and below 1.
        delta: probability that the guarantee may fail, above 0 and below 1.
        start: the threshold at which the sequence begins, chosen without the calibration questions
            (`most_evident_threshold`).
        n_starts: number of sequences without ``start``.

    Returns:
        The guarantee with the highest threshold; None if no threshold passes.
    """
    from scipy.stats import binom

    values, right = scored(score, correct)
    (thresholds,) = scores(candidates=candidates)
    same_length(score=values, correct=right)
    if not 0 < max_error < 1 or not 0 < delta < 1 or n_starts < 1:
        raise MetricInputError(
            f"guarantee: max_error is {max_error}, delta {delta} and n_starts {n_starts}, expected rates between 0 and "
            "1 and at least one start"
        )
    thresholds = np.unique(thresholds)
    if not len(thresholds) or not len(values):
        return None
    n_answered, n_wrong = _counts(values, right, thresholds)
    starts = np.unique(np.linspace(0, len(thresholds) - 1, n_starts + 2)[1:-1].astype(int)).tolist()
    if start is not None:
        starts, n_starts = [min(int(np.searchsorted(thresholds, start)), len(thresholds) - 1)], 1
    passes = binom.cdf(n_wrong, n_answered, max_error) <= delta / n_starts
    best = -1
    for first in starts:
        failures = np.flatnonzero(~passes[first:])
        last = len(thresholds) - 1 if not len(failures) else first + int(failures[0]) - 1
        best = max(best, last if last >= first else -1)
    if best < 0:
        return None
    coverage = float(n_answered[best] / len(values))
    return Guarantee(float(thresholds[best]), max_error, delta, coverage, len(values))


def most_evident_threshold(score: ArrayLike, correct: ArrayLike, *, candidates: ArrayLike, max_error: float) -> float:
    """Return the candidate for which it is most evident that its error rate is at most ``max_error``.

    This is where a sequence of tests on other questions should begin: the one with the lowest p-value of
    `guaranteed_threshold`'s test.

    Args:
        score: float [n], on questions that are not the calibration questions.
        correct: bool [n].
        candidates: float [m], at least one.
        max_error: α, above 0 and below 1.
    """
    from scipy.stats import binom

    values, right = scored(score, correct)
    (thresholds,) = scores(candidates=candidates)
    thresholds = np.unique(thresholds)
    n_answered, n_wrong = _counts(values, right, thresholds)
    return float(thresholds[np.argmin(binom.logcdf(n_wrong, n_answered, max_error))])


def _counts(values: FloatArray, right: BoolArray, thresholds: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return how many questions are answered at each threshold, and how many of them wrongly."""
    order = np.argsort(values, kind="stable")
    n_answered = np.searchsorted(values[order], thresholds, side="right")
    return n_answered, np.concatenate([[0], np.cumsum(~right[order])])[n_answered]
