"""Figures with their spread, and the report that contains them."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from metadeploy._core import system_info
from metadeploy._version import own_version
from metadeploy.bench.timing import Floats
from metadeploy.doctor.processor import find_processor

__all__ = ["SCHEMA", "Figure", "Report", "Spread", "machine"]

#: Version of the report's layout.
SCHEMA: Final = 1


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one quantity.

    Attributes:
        median: median of the measurements.
        low: first quartile.
        high: third quartile.
        n: number of measurements.
    """

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Floats) -> Spread:
        """Compute median and quartiles of float64 [n]."""
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high), len(values))


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One row of the table.

    Attributes:
        part: the part of the benchmark that it belongs to, such as ``prompt``.
        label: its description.
        unit: unit of the value; ``×`` for a ratio.
        value: the value with its spread; for a ratio, the spread of the pairs' ratios.
        sides: the two sides of a ratio, by name.
        sides_unit: unit of the sides.
        limit: the best possible value on paper, as a range if it depends on the machine's bottleneck.
        at: its position on the axis of its part (tokens, sequences, …); None if the part has no axis.
        series: the curve that it belongs to, if a part has several.
    """

    part: str
    label: str
    unit: str
    value: Spread
    sides: Mapping[str, Spread] = field(default_factory=dict)
    sides_unit: str = ""
    limit: tuple[float, float] | None = None
    at: float | None = None
    series: str = ""

    @classmethod
    def ratio(
        cls,
        part: str,
        label: str,
        sides: Mapping[str, Floats],
        *,
        unit: str,
        limit: tuple[float, float] | None = None,
        at: float | None = None,
        series: str = "",
    ) -> Figure:
        """Divide the first of two sides by the second, pair by pair.

        Args:
            part: see the class.
            label: see the class.
            sides: two sides by name, float64 [pairs] each.
            unit: unit of the sides.
            limit: see the class.
            at: see the class.
            series: see the class.
        """
        numerator, denominator = sides.values()
        return cls(
            part=part,
            label=label,
            unit="×",
            value=Spread.of(numerator / denominator),
            sides={name: Spread.of(values) for name, values in sides.items()},
            sides_unit=unit,
            limit=limit,
            at=at,
            series=series,
        )


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a benchmark.

    Attributes:
        title: title of its table.
        conditions: what was measured, and on which machine.
        figures: the rows of the table.
        notes: what was left out and why, and how to read the table.
    """

    title: str
    conditions: Mapping[str, Any]
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {"schema": SCHEMA, **asdict(self)}


def machine() -> dict[str, Any]:
    """Describe the machine: processor, system, versions, and its current load."""
    return {
        "cpu": find_processor().name,
        "cpu_count": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "metadeploy": own_version(),
        "llama.cpp": system_info().strip(),
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }
