"""Formats numbers for tables, on the terminal and in Markdown. None shows as a dash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from metadeploy import _exact

__all__ = ["METRICS", "NONE", "Metric", "count", "interval", "number", "p_value", "percent", "value"]

#: Shown for a value that is undefined, such as a proportion of nothing.
NONE: Final = "–"


class Metric(NamedTuple):
    """A metric in tables.

    Attributes:
        key: its name in results.
        title: its title in tables.
        is_share: whether it is a proportion of questions.
    """

    key: str
    title: str
    is_share: bool


#: The metrics that tables show, in order.
METRICS: Final = (
    Metric("base_accuracy", "base accuracy: right of all", True),
    Metric("coverage", "coverage: answered of all", True),
    Metric("selective_accuracy", "selective accuracy: right of the answered", True),
    Metric("over_refusal_rate", "over-refusal: the base's right answers declined", True),
    Metric("smart_refusal_rate", "errors caught: the base's errors declined", True),
    Metric("refusal_precision", "refusal precision: the base's errors of the declined", True),
    Metric("kept_rate", "kept right: right answers that stay right", True),
    Metric("same_words_rate", "same words: right answers with the same text", True),
    Metric("auroc", "AUROC of doubt for the base's errors", False),
    Metric("macro_auroc", "AUROC within categories, mean", False),
    Metric("aurc", "AURC, lower is better", False),
    Metric("prr", "prediction rejection ratio: 0 random, 1 perfect", False),
    Metric("ece", "calibration error of 1 − doubt, lower is better", False),
)


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
