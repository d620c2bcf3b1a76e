"""Draws a report: ratios with their quartiles, and their limits on paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes

from metadeploy.bench.measurements import Figure, Report
from metadeploy.errors import Error
from metadeploy.plots.style import COLORS, GRAY, page

__all__ = ["plot"]

#: Axes by part of a benchmark.
_AXES: Final = {
    "prompt": ("tokens of the prompt", "two passes ÷ one, time"),
    "turn": ("tokens of the chat before", "next turn ÷ one pass"),
    "decode": ("sequences at once", "injected ÷ clean, speed"),
    "batch": ("sequences at once", "batch ÷ bare, speed"),
    "layers": ("layers injected into", "ratio"),
    "cognitive tokens": ("cognitive tokens", "ratio"),
    "threads": ("threads", "ratio"),
}


def plot(report: Report, path: Path) -> None:
    """Draw every part of a report that has an axis.

    Args:
        report: the report to draw.
        path: ``.png`` or ``.svg``.

    Raises:
        Error: no part has an axis, the suffix is another one, or the file cannot be written.
    """
    parts = [part for part in _AXES if any(f.part == part and f.at is not None for f in report.figures)]
    if not parts:
        raise Error(f"plot '{path}': none of the figures lies along an axis, expected some of {', '.join(_AXES)}")
    machine = report.conditions["machine"]
    caption = (
        f"{machine['cpu']}, {machine['cpu_count']} CPUs. Median and quartiles of pairs that take turns; "
        "gray: the limit on paper."
    )
    with page(path, title=report.title, caption=caption, height=1.2 + 2.4 * len(parts)) as figure:
        grid = figure.subplots(len(parts), 1, squeeze=False)[:, 0]
        for axes, part in zip(grid, parts, strict=True):
            _draw(axes, [f for f in report.figures if f.part == part and f.at is not None])
            axes.set_xlabel(_AXES[part][0])
            axes.set_ylabel(_AXES[part][1])


def _draw(axes: Axes, figures: Sequence[Figure]) -> None:
    series: dict[str, list[Figure]] = {}
    for figure in figures:
        series.setdefault(figure.series, []).append(figure)
    for color, (name, points) in zip(COLORS, series.items(), strict=False):
        points = sorted(points, key=lambda point: point.at or 0.0)
        positions = [point.at or 0.0 for point in points]
        medians = [point.value.median for point in points]
        below = [point.value.median - point.value.low for point in points]
        above = [point.value.high - point.value.median for point in points]
        axes.errorbar(positions, medians, yerr=[below, above], color=color, marker="o", markersize=5, label=name)
        limits = [(position, *point.limit) for position, point in zip(positions, points, strict=True) if point.limit]
        if limits:
            at, low, high = map(list, zip(*limits, strict=True))
            axes.fill_between(at, low, high, color=GRAY, alpha=0.25)
            axes.plot(at, low, color=GRAY, linewidth=1, linestyle="--")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({figure.at or 0.0 for figure in figures}), minor=False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if len(series) > 1:
        axes.legend()
