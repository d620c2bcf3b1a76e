"""Intervals: bootstrap over questions, and Student's over training runs with different seeds."""

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

#: Takes indices of questions, intp [about n], with repetitions; None where it is undefined on them.
Statistic: TypeAlias = Callable[[NDArray[np.intp]], "float | None"]
#: The same for several figures at once, as many for each draw.
Statistics: TypeAlias = Callable[[NDArray[np.intp]], "Sequence[float | None]"]


def bootstrap_interval(
    statistic: Statistic, n: int, *, entity: ArrayLike | None = None, n_resamples: int = 2000, seed: int = 0
) -> Interval | None:
    """Percentile interval of a statistic, 95 %, by drawing the questions anew with replacement.

    Questions about one entity are right or wrong together more often than others are, so they are drawn together: as
    many entities as there are, each with all of its questions, as often as it is drawn. A draw has n questions on
    average. Where every question stands for itself this is the plain bootstrap.

    The statistic gets indices and applies them to all of its arrays, so that what belongs to one question stays
    together (paired). The same seed and entities draw the same questions for every statistic.

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993; Field and Welsh, "Bootstrapping clustered
    data", 2007 (the cluster bootstrap).

    Args:
        statistic: of the questions at the given indices.
        n: number of questions.
        entity: text or whole numbers [n], what a question is about; an empty text stands for itself, and None for n of
            these.
        n_resamples: how often to draw, at least 1.
        seed: of the draws.

    Returns:
        The interval; None where the statistic is undefined on more than half of the draws (or there are no questions).

    Raises:
        MetricInputError: ``n_resamples`` is below 1, or ``entity`` is malformed.
    """
    drawn = bootstrap_values(statistic, n, entity=entity, n_resamples=n_resamples, seed=seed)
    return percentile_interval(drawn, n_resamples)


def bootstrap_intervals(
    statistics: Statistics, n: int, *, entity: ArrayLike | None = None, n_resamples: int = 2000, seed: int = 0
) -> list[Interval | None]:
    """`bootstrap_interval` of several figures that are computed together, in their order; empty without questions."""
    draws = _draws(n, entity, n_resamples, seed)
    columns = zip(*(statistics(at) for at in draws), strict=True)
    return [percentile_interval(_known(column), n_resamples) for column in columns]


def share_intervals(
    shares: Callable[[NDArray[np.intp]], Sequence[Share]],
    n: int,
    *,
    entity: ArrayLike | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> list[Interval | None]:
    """`bootstrap_intervals` of shares, but Wilson's where all or none is a hit.

    There the bootstrap, which knows nothing else, would have an interval of one point. Wilson's is that of as many
    hits, or misses, as there are entities with a question that counts.
    """
    about, found = clusters(n, entity), shares(np.arange(n))
    intervals = bootstrap_intervals(
        lambda at: [share.value for share in shares(at)], n, entity=about, n_resamples=n_resamples, seed=seed
    ) or [None] * len(found)
    if all(0 < share.hits < share.total for share in found):
        return intervals
    each = [shares(at) for at in np.split(np.argsort(about, kind="stable"), np.cumsum(np.bincount(about))[:-1])]
    return [
        interval if 0 < share.hits < share.total else _of_one_sort(share, [parts[place] for parts in each])
        for place, (share, interval) in enumerate(zip(found, intervals, strict=True))
    ]


def _of_one_sort(share: Share, of_entities: Sequence[Share]) -> Interval | None:
    """Wilson's interval of all or none."""
    counting = sum(part.total > 0 for part in of_entities)
    return wilson_interval(counting if share.hits else 0, counting)


def bootstrap_values(
    statistic: Statistic, n: int, *, entity: ArrayLike | None = None, n_resamples: int, seed: int
) -> FloatArray:
    """Compute the statistic of each draw; draws on which it is undefined are left out.

    Args:
        statistic: of the questions at the given indices.
        n: number of questions.
        entity: as in `bootstrap_interval`.
        n_resamples: how often to draw, at least 1.
        seed: of the draws.

    Returns:
        Float64 [at most n_resamples].

    Raises:
        MetricInputError: ``n_resamples`` is below 1, or ``entity`` is malformed.
    """
    return _known(map(statistic, _draws(n, entity, n_resamples, seed)))


def percentile_interval(values: FloatArray, n_resamples: int) -> Interval | None:
    """Take the middle 95 % of bootstrap values; None where more than half of the draws had none."""
    if 2 * len(values) < n_resamples or not len(values):
        return None
    low, high = np.quantile(values, (0.025, 0.975))
    return Interval(float(low), float(high))


def clusters(n: int, entity: ArrayLike | None = None) -> NDArray[np.intp]:
    """Number what the questions are about, 0 … in the order of first appearance.

    Args:
        n: number of questions.
        entity: as in `bootstrap_interval`.

    Returns:
        Intp [n]; the same number where the entity is the same and not empty.

    Raises:
        MetricInputError: ``entity`` is malformed or of another length.
    """
    if entity is None:
        return np.arange(n)
    names = labels(entity, name="entity")
    if len(names) != n:
        raise MetricInputError(f"metric input 'entity': {len(names)} entries, expected {n} (one a question)")
    _, codes = np.unique(names, return_inverse=True)
    if names.dtype.kind == "U":
        alone = names == ""
        codes[alone] = n + np.arange(alone.sum())
    _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[codes]


def _draws(n: int, entity: ArrayLike | None, n_resamples: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """Indices of the questions of each draw; none without questions."""
    if n_resamples < 1:
        raise MetricInputError(f"bootstrap: n_resamples is {n_resamples}, expected at least 1")
    about = clusters(n, entity)
    if not n:
        return
    # the questions of entity k are members[starts[k]], members[starts[k] + 1], …, sizes[k] of them
    members = np.argsort(about, kind="stable")
    sizes = np.bincount(about)
    starts = np.cumsum(sizes) - sizes
    rng = np.random.default_rng(seed)
    for _ in range(n_resamples):
        drawn = rng.integers(len(sizes), size=len(sizes))
        counts = sizes[drawn]
        ends = np.cumsum(counts)
        yield members[np.repeat(starts[drawn] - (ends - counts), counts) + np.arange(ends[-1])]


def _known(values: Iterable[float | None]) -> FloatArray:
    return np.array([value for value in values if value is not None], dtype=np.float64)


@dataclass(frozen=True)
class SeedMean:
    """One figure over several runs.

    Attributes:
        mean: of the runs.
        interval: 95 %, for the mean; None for a single run.
        n: number of runs.
    """

    mean: float
    interval: Interval | None
    n: int


def seed_mean(values: ArrayLike) -> SeedMean | None:
    """Mean of a figure over seeds, with Student's interval: mean ± t(0.975; n − 1) · s / √n.

    It says how much the figure varies with the training's randomness, not with the choice of questions.

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
