"""Formats numbers for tables, on the terminal and in Markdown. None shows as a dash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from metadeploy import _exact

__all__ = ["NONE", "count", "interval", "number", "p_value", "percent", "value"]

#: Shown for a value that is undefined, such as a proportion of nothing.
NONE: Final = "–"


def count(value: int) -> str:
    """Format a whole number: ``2,997``."""
    return f"{value:,}"


def percent(proportion: float | None, digits: int = 1, *, unit: str = "%") -> str:
    """Format a proportion in [0, 1]: ``58.1%``."""
    return NONE if proportion is None else f"{_exact.percent(proportion, digits)}{unit}"


def number(value: float | None) -> str:
    """Format a number without a unit, with three decimals."""
    return NONE if value is None else f"{value:.3f}"


def value(row: Mapping[str, Any], key: str = "value", *, is_share: bool) -> str:
    """Format one value of a row of the results."""
    return percent(row[key]) if is_share else number(row[key])


def interval(row: Mapping[str, Any], *, is_share: bool) -> str:
    """Format both ends of a row's interval: ``55.0% to 61.2%``."""
    if row["low"] is None or row["high"] is None:
        return NONE
    return f"{value(row, 'low', is_share=is_share)} to {value(row, 'high', is_share=is_share)}"


def p_value(value: float | None) -> str:
    """Format a p-value with three decimals; a smaller one is ``< 0.001``."""
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
