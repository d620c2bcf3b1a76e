"""A report as text: tables for a terminal, and the same as Markdown."""

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
    """For a terminal."""
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), title=report.title, title_justify="left")
    for place, title in enumerate(_COLUMNS):
        grid.add_column(title, justify="left" if place in (0, len(_COLUMNS) - 1) else "right", no_wrap=not place)
    for figure, following in zip_longest(report.figures, report.figures[1:]):
        last_of_part = following is not None and following.part != figure.part
        grid.add_row(*map(escape, _cells(figure)), end_section=last_of_part)
    return grid


def markdown(report: Report) -> str:
    """For the docs: the table, and below it what it rests on."""
    rules = ("---", "---:", "---:", "---:", "---")
    rows = [f"| {' | '.join(cells)} |" for cells in (_COLUMNS, rules, *map(_cells, report.figures))]
    said = [f"- {line}" for line in remarks(report)]
    return "\n".join([f"**{report.title}**", "", *rows, "", *said]) + "\n"


def remarks(report: Report) -> Iterator[str]:
    """What the figures rest on."""
    conditions = report.conditions
    machine: dict[str, Any] = conditions["machine"]
    load = machine["load_average"]
    busy = "" if load is None else f"; load average {load[0]:g} before, {conditions['load_average_after'][0]:g} after"
    threads = f", threads: {conditions['threads'] or 'by default'}" if "threads" in conditions else ""
    yield f"{machine['cpu']}, {machine['cpu_count']} CPUs, {machine['system']}{threads}{busy}."
    counts = sorted({figure.value.n for figure in report.figures})
    if counts:
        turns = "; what is compared takes turns" if any(figure.sides for figure in report.figures) else ""
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
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
