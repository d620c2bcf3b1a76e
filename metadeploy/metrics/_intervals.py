"""Intervals: the bootstrap over questions, and Student's interval over training runs with different seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t

from metadeploy.metrics._inputs import FloatArray, MetricInputError, labels, scores
from metadeploy.proportion import Interval, Share, wilson_interval

__all__ = [
    "SeedMean",
    "Statistic",
    "bootstrap_interval",
    "bootstrap_intervals",
    "bootstrap_values",
    "clusters",
    "percentile_interval",
    "seed_mean",
    "share_intervals",
]

#: Takes indices of questions with repetitions, intp [about n]. Returns None if it is undefined on these questions.
Statistic: TypeAlias = Callable[[NDArray[np.intp]], "float | None"]
#: Computes several statistics at once, always the same number of them.
Statistics: TypeAlias = Callable[[NDArray[np.intp]], "Sequence[float | None]"]


def bootstrap_interval(
    statistic: Statistic, n: int, *, entity: ArrayLike | None = None, n_resamples: int = 2000, seed: int = 0
) -> Interval | None:
    """Compute the 95 % percentile interval of a statistic by resampling the questions with replacement.

    Questions about the same entity are often right or wrong together, so they are drawn together. A draw takes as many
    entities as there are, with replacement, and all questions of each. It has n questions on average. If every question
    has its own entity, this is the plain bootstrap.

    The statistic gets indices and applies them to all of its arrays, so that the values of a question stay together
    (paired). The same seed and entities draw the same questions for every statistic.

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993; Field and Welsh, "Bootstrapping clustered
    data", 2007 (the cluster bootstrap).

    Args:
        statistic: computes the statistic for the questions at the given indices.
        n: number of questions.
        entity: text or whole numbers [n], the subject of each question. A question with an empty text is an entity of
            its own; None means this for all questions.
        n_resamples: number of draws, at least 1.
        seed: seed of the draws.

    Returns:
        The interval; None if the statistic is undefined on more than half of the draws, or if there are no questions.

    Raises:
        MetricInputError: ``n_resamples`` is below 1, or ``entity`` is malformed.
    """
    values = bootstrap_values(statistic, n, entity=entity, n_resamples=n_resamples, seed=seed)
    return percentile_interval(values, n_resamples)


def bootstrap_intervals(
    statistics: Statistics, n: int, *, entity: ArrayLike | None = None, n_resamples: int = 2000, seed: int = 0
) -> list[Interval | None]:
    """Compute `bootstrap_interval` of several statistics together, in their order; empty without questions."""
    draws = _draws(n, entity, n_resamples, seed)
    columns = zip(*(statistics(at) for at in draws), strict=True)
    return [percentile_interval(_defined(column), n_resamples) for column in columns]


def share_intervals(
    shares: Callable[[NDArray[np.intp]], Sequence[Share]],
    n: int,
    *,
    entity: ArrayLike | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> list[Interval | None]:
    """Compute `bootstrap_intervals` of proportions, but Wilson's interval if all or none are hits.

    In this case the bootstrap's interval would be a single point. Wilson's interval then counts each entity that has a
    question in the proportion as one hit, or as one miss.
    """
    entities, overall = clusters(n, entity), shares(np.arange(n))
    intervals = bootstrap_intervals(
        lambda at: [share.value for share in shares(at)], n, entity=entities, n_resamples=n_resamples, seed=seed
    ) or [None] * len(overall)
    if all(0 < share.hits < share.total for share in overall):
        return intervals
    members = np.split(np.argsort(entities, kind="stable"), np.cumsum(np.bincount(entities))[:-1])
    by_entity = [shares(at) for at in members]
    return [
        interval if 0 < share.hits < share.total else _all_or_none_interval(share, [row[column] for row in by_entity])
        for column, (share, interval) in enumerate(zip(overall, intervals, strict=True))
    ]


def _all_or_none_interval(share: Share, entity_shares: Sequence[Share]) -> Interval | None:
    n_entities = sum(entity_share.total > 0 for entity_share in entity_shares)
    return wilson_interval(n_entities if share.hits else 0, n_entities)


def bootstrap_values(
    statistic: Statistic, n: int, *, entity: ArrayLike | None = None, n_resamples: int, seed: int
) -> FloatArray:
    """Compute the statistic of each draw, without the draws on which it is undefined.

    Args:
        statistic: as in `bootstrap_interval`.
        n: number of questions.
        entity: as in `bootstrap_interval`.
        n_resamples: number of draws, at least 1.
        seed: seed of the draws.

    Returns:
        Float64 [at most n_resamples].

    Raises:
        MetricInputError: ``n_resamples`` is below 1, or ``entity`` is malformed.
    """
    return _defined(map(statistic, _draws(n, entity, n_resamples, seed)))


def percentile_interval(values: FloatArray, n_resamples: int) -> Interval | None:
    """Return the middle 95 % of bootstrap values; None if more than half of the draws have no value."""
    if 2 * len(values) < n_resamples or not len(values):
        return None
    low, high = np.quantile(values, (0.025, 0.975))
    return Interval(float(low), float(high))


def clusters(n: int, entity: ArrayLike | None = None) -> NDArray[np.intp]:
    """Number the entities of the questions, 0 … in the order of first appearance.

    Args:
        n: number of questions.
        entity: as in `bootstrap_interval`.

    Returns:
        Intp [n]; questions with the same entity have the same number, unless the entity is an empty text.

    Raises:
        MetricInputError: ``entity`` is malformed or of another length.
    """
    if entity is None:
        return np.arange(n)
    names = labels(entity, name="entity")
    if len(names) != n:
        raise MetricInputError(f"metric input 'entity': {len(names)} entries, expected {n} (one for each question)")
    _, codes = np.unique(names, return_inverse=True)
    if names.dtype.kind == "U":
        empty = names == ""
        codes[empty] = n + np.arange(empty.sum())
    _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[codes]


def _draws(n: int, entity: ArrayLike | None, n_resamples: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """Yield the indices of the questions of each draw; nothing if there are no questions."""
    if n_resamples < 1:
        raise MetricInputError(f"bootstrap: n_resamples is {n_resamples}, expected at least 1")
    entities = clusters(n, entity)
    if not n:
        return
    # entity k has sizes[k] questions: members[starts[k]], members[starts[k] + 1], …
    members = np.argsort(entities, kind="stable")
    sizes = np.bincount(entities)
    starts = np.cumsum(sizes) - sizes
    rng = np.random.default_rng(seed)
    for _ in range(n_resamples):
        drawn = rng.integers(len(sizes), size=len(sizes))
        counts = sizes[drawn]
        ends = np.cumsum(counts)
        yield members[np.repeat(starts[drawn] - (ends - counts), counts) + np.arange(ends[-1])]


def _defined(values: Iterable[float | None]) -> FloatArray:
    return np.array([value for value in values if value is not None], dtype=np.float64)


@dataclass(frozen=True)
class SeedMean:
    """The mean of a figure over several runs.

    Attributes:
        mean: mean over the runs.
        interval: 95 % interval of the mean; None for a single run.
        n: number of runs.
    """

    mean: float
    interval: Interval | None
    n: int


def seed_mean(values: ArrayLike) -> SeedMean | None:
    """Compute the mean of a figure over seeds, with Student's interval: mean ± t(0.975; n − 1) · s / √n.

    The interval shows how much the figure varies with the randomness of training, not with the choice of questions.

    Source: Student, "The probable error of a mean", 1908.

    Args:
        values: float [n], finite, one for each seed.

    Returns:
        Mean and interval; None without values.

    Raises:
        MetricInputError: the input is malformed.
    """
    (runs,) = scores(values=values)
    n = len(runs)
    if not n:
        return None
    mean = float(runs.mean())
    if n == 1:
        return SeedMean(mean, None, 1)
    spread = float(t.ppf(0.975, n - 1) * runs.std(ddof=1) / math.sqrt(n))
    return SeedMean(mean, Interval(mean - spread, mean + spread), n)
