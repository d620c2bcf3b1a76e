"""Exact proportions of counts, without the rounding of binary floats: 0.1 of 30 is 3, and not a little more.

A float counts as the shortest decimal number that parses to it, which is the number that a person wrote.
"""

from __future__ import annotations

import math
from fractions import Fraction

__all__ = ["at_least", "at_most", "nearest", "percent"]


def _exact(proportion: float) -> Fraction:
    return Fraction(repr(float(proportion)))


def at_most(proportion: float, n: int) -> int:
    """Return the largest count that is at most this proportion of n."""
    return math.floor(_exact(proportion) * n)


def at_least(proportion: float, n: int) -> int:
    """Return the smallest count that is at least this proportion of n."""
    return math.ceil(_exact(proportion) * n)


def nearest(proportion: float, n: int) -> int:
    """Return the count nearest to this proportion of n; halves are rounded up."""
    return math.floor(_exact(proportion) * n + Fraction(1, 2))


def percent(proportion: float, digits: int = 1) -> str:
    """Return a proportion as a percentage without the sign, such as ``58.1``; halves are rounded up.

    Only exactly 0 shows as 0, and only exactly 1 as 100. Other proportions that would round to 0 or 100 show as
    ``< 0.1`` or ``> 99.9``.
    """
    if not math.isfinite(proportion):
        return str(proportion)
    step = 10**digits
    value = _exact(proportion)
    rounded = math.floor(abs(value) * 100 * step + Fraction(1, 2))
    if 0 < value < 1 and rounded in (0, 100 * step):
        sign, edge = ("<", 1) if rounded == 0 else (">", 100 * step - 1)
        return f"{sign} {_decimal(edge, digits)}"
    return ("-" if value < 0 and rounded else "") + _decimal(rounded, digits)


def _decimal(steps: int, digits: int) -> str:
    whole, rest = divmod(steps, 10**digits)
    return f"{whole}.{rest:0{digits}d}" if digits else str(whole)
