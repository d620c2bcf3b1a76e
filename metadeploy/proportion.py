"""A share of a count, and how sure one may be of it. Standard library only: the demo uses it too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final, NamedTuple

__all__ = ["Interval", "Share", "figure", "wilson_interval"]

_Z_95: Final = NormalDist().inv_cdf(0.975)


class Interval(NamedTuple):
    """Where the true value lies with 95 % confidence."""

    low: float
    high: float


@dataclass(frozen=True)
class Share:
    """So many of so many.

    Attributes:
        hits: 0 to ``total``.
        total: what ``hits`` is a part of; 0 leaves value and interval undefined.
    """

    hits: int
    total: int

    @property
    def value(self) -> float | None:
        """The share, 0 to 1; None of nothing."""
        return self.hits / self.total if self.total else None

    @property
    def interval(self) -> Interval | None:
        """Where the true share lies with 95 % confidence (Wilson's score interval); None of nothing."""
        return wilson_interval(self.hits, self.total)


def figure(value: float | None, interval: Interval | None, n: int) -> dict[str, Any]:
    """One figure as results have it: ``{"value", "low", "high", "n"}``, None where undefined."""
    low, high = interval or (None, None)
    return {"value": value, "low": low, "high": high, "n": n}


def wilson_interval(hits: float, total: float) -> Interval | None:
    """Wilson's score interval of a share of independent questions, two-sided, 95 %.

    With p = hits / total, z = 1.96 and ν = z² / total the ends are
    ``(p + ν/2 ± √(ν · (p · (1 − p) + ν/4))) / (1 + ν)``. Unlike a bootstrap it does not shrink to a point where every
    question was a hit, or none was.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    Args:
        hits: 0 to ``total``; may be an expectation, as where ties are averaged.
        total: how many there were.

    Returns:
        Both ends, each in [0, 1]; None where ``total`` is 0.
    """
    if not total:
        return None
    share, nu = hits / total, _Z_95**2 / total
    centre = (share + nu / 2) / (1 + nu)
    spread = math.sqrt(nu * (share * (1 - share) + nu / 4)) / (1 + nu)
    return Interval(max(0.0, centre - spread), min(1.0, centre + spread))
