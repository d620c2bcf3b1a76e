"""A report as text: a table for a terminal, and the same table in Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from metadeploy.bench.measurements import Figure, Report, Spread

__all__ = ["markdown", "remarks", "table"]

_COLUMNS = ("what", "median", "quartiles", "on paper", "made of")


def table(report: Report) -> Table:
    """Build a table for a terminal."""
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), title=report.title, title_justify="left")
    for column, title in enumerate(_COLUMNS):
        grid.add_column(title, justify="left" if column in (0, len(_COLUMNS) - 1) else "right", no_wrap=not column)
    for figure, next_figure in zip_longest(report.figures, report.figures[1:]):
        ends_part = next_figure is not None and next_figure.part != figure.part
        grid.add_row(*map(escape, _cells(figure)), end_section=ends_part)
    return grid


def markdown(report: Report) -> str:
    """Format the table in Markdown, with the conditions of the measurement below it."""
    rules = ("---", "---:", "---:", "---:", "---")
    rows = [f"| {' | '.join(cells)} |" for cells in (_COLUMNS, rules, *map(_cells, report.figures))]
    items = [f"- {remark}" for remark in remarks(report)]
    return "\n".join([f"**{report.title}**", "", *rows, "", *items]) + "\n"


def remarks(report: Report) -> Iterator[str]:
    """Yield sentences about the conditions of the measurement."""
    conditions = report.conditions
    machine: dict[str, Any] = conditions["machine"]
    load = machine["load_average"]
    busy = "" if load is None else f"; load average {load[0]:g} before, {conditions['load_average_after'][0]:g} after"
    threads = f", threads: {conditions['threads'] or 'by default'}" if "threads" in conditions else ""
    yield f"{machine['cpu']}, {machine['cpu_count']} CPUs, {machine['system']}{threads}{busy}."
    counts = sorted({figure.value.n for figure in report.figures})
    if counts:
        turns = "; the two sides of a ratio take turns" if any(figure.sides for figure in report.figures) else ""
        yield f"Medians and quartiles of {' or '.join(map(str, counts))} measurements{turns}."
    yield from (f"{note[0].upper()}{note[1:]}." for note in report.notes)


def _cells(figure: Figure) -> tuple[str, ...]:
    value = figure.value
    sides = ", ".join(f"{name} {_number(side.median)}" for name, side in figure.sides.items())
    return (
        figure.label,
        _with_unit(value.median, figure.unit),
        _quartiles(value, figure.unit),
        _limit(figure),
        f"{sides} {figure.sides_unit}" if sides else "",
    )


def _limit(figure: Figure) -> str:
    if figure.limit is None:
        return ""
    low, high = (f"{end:.3f}" for end in figure.limit)
    return low if low == high else f"{low}–{high}"


def _quartiles(value: Spread, unit: str) -> str:
    return "–".join(f"{end:.3f}" if unit == "×" else _number(end) for end in (value.low, value.high))


def _with_unit(value: float, unit: str) -> str:
    return f"{value:.3f}" if unit == "×" else f"{_number(value)} {unit}"


def _number(value: float) -> str:
    """Format a number with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
