"""Proportions and their confidence intervals. Standard library only, because the demo uses it, too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final, NamedTuple

__all__ = ["Interval", "Share", "figure", "wilson_interval"]

_Z_95: Final = NormalDist().inv_cdf(0.975)


class Interval(NamedTuple):
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Share:
    """A proportion: ``hits`` out of ``total``.

    Attributes:
        hits: 0 to ``total``.
        total: the count of all; if it is 0, value and interval are undefined.
    """

    hits: int
    total: int

    @property
    def value(self) -> float | None:
        """The proportion, 0 to 1; None if ``total`` is 0."""
        return self.hits / self.total if self.total else None

    @property
    def interval(self) -> Interval | None:
        """Its 95 % confidence interval (Wilson's score interval); None if ``total`` is 0."""
        return wilson_interval(self.hits, self.total)


def figure(value: float | None, interval: Interval | None, n: int) -> dict[str, Any]:
    """Return a value in the format of the results: ``{"value", "low", "high", "n"}``, None if undefined."""
    low, high = interval or (None, None)
    return {"value": value, "low": low, "high": high, "n": n}


def wilson_interval(hits: float, total: float) -> Interval | None:
    """Return Wilson's score interval of a proportion of independent questions, two-sided, 95 %.

    With p = hits / total, z = 1.96 and ν = z² / total, the ends are
    ``(p + ν/2 ± √(ν · (p · (1 − p) + ν/4))) / (1 + ν)``. Unlike a bootstrap interval, it does not shrink to a point if
    all questions are hits, or none is.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    Args:
        hits: 0 to ``total``; may be a fraction, for example if ties are averaged.
        total: the count of all.

    Returns:
        Both ends, each in [0, 1]; None if ``total`` is 0.
    """
    if not total:
        return None
    p, nu = hits / total, _Z_95**2 / total
    center = (p + nu / 2) / (1 + nu)
    half_width = math.sqrt(nu * (p * (1 - p) + nu / 4)) / (1 + nu)
    return Interval(max(0.0, center - half_width), min(1.0, center + half_width))
