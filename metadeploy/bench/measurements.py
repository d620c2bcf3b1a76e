"""Figures with their spread, and the report that they make."""

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
    """Several measurements of the same.

    Attributes:
        median: of them.
        low: first quartile.
        high: third quartile.
        n: how many.
    """

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Floats) -> Spread:
        """Median and quartiles of float64 [n]."""
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high), len(values))


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table.

    Attributes:
        part: which part of a benchmark it belongs to, e.g. ``prompt``.
        label: what it is.
        unit: of its value; ``×`` for a ratio.
        value: with its spread; of a ratio, the spread of the pairs' ratios.
        sides: what a ratio was made of, by name, in ``sides_unit``.
        sides_unit: of these.
        limit: what it can be at best on paper; from … to where that depends on what bounds the machine.
        at: where it lies on the axis of its part (tokens, sequences, …), None where there is none.
        series: the curve that it lies on, where a part has several.
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
        """The first of two sides divided by the second, pair by pair.

        Args:
            part: see the class.
            label: see the class.
            sides: two, float64 [pairs] each.
            unit: of the sides.
            limit: see the class.
            at: see the class.
            series: see the class.
        """
        over, under = sides.values()
        return cls(
            part=part,
            label=label,
            unit="×",
            value=Spread.of(over / under),
            sides={name: Spread.of(values) for name, values in sides.items()},
            sides_unit=unit,
            limit=limit,
            at=at,
            series=series,
        )


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a benchmark found.

    Attributes:
        title: of its table.
        conditions: what was measured and on which machine.
        figures: the lines.
        notes: what was left out and why, and how to read it.
    """

    title: str
    conditions: Mapping[str, Any]
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The report as plain data."""
        return {"schema": SCHEMA, **asdict(self)}


def machine() -> dict[str, Any]:
    """What figures depend on beside the code: processor, system, versions, and how busy the machine is right now."""
    return {
        "cpu": find_processor().name,
        "cpu_count": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "metadeploy": own_version(),
        "llama.cpp": system_info().strip(),
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }
