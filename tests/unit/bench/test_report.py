"""A report of the benchmark: its figures, and its forms as JSON, Markdown, table and plot."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from metadeploy import Error
from metadeploy.bench import Figure, Report, Spread
from metadeploy.bench.measurements import SCHEMA, machine
from metadeploy.bench.plot import plot
from metadeploy.bench.report import markdown, table


def report() -> Report:
    sides = {"two": np.array([13.0, 15.0, 12.0]), "one": np.array([10.0, 10.0, 10.0])}
    figures = (
        Figure.ratio("prompt", "two ÷ one, 128 tokens", sides, unit="ms", limit=(1.25, 1.25), at=128, series="all"),
        Figure.ratio("prompt", "two ÷ one, 512 tokens", sides, unit="ms", limit=(1.2, 1.2), at=512, series="all"),
        Figure(part="load", label="load [it]", unit="ms", value=Spread.of(np.array([150.0, 2500.0, 130.0]))),
    )
    conditions = {"machine": machine(), "load_average_after": [0.5, 0.5, 0.5], "threads": 2}
    return Report(title="a base with its wrapper", conditions=conditions, figures=figures, notes=("something is left",))


def test_a_ratio_is_the_median_of_pairs() -> None:
    sides = {"two": np.array([2.0, 30.0, 4.0]), "one": np.array([1.0, 10.0, 4.0])}
    figure = Figure.ratio("prompt", "p", sides, unit="ms")
    assert figure.value == Spread(median=2.0, low=1.5, high=2.5, n=3)
    assert figure.sides["two"].median == 4.0
    assert (figure.unit, figure.sides_unit) == ("×", "ms")


def test_a_report_as_json_holds_everything() -> None:
    document = json.loads(json.dumps(report().as_json(), allow_nan=False))
    assert document["schema"] == SCHEMA
    assert set(document) == {"schema", "title", "conditions", "figures", "notes"}
    first = document["figures"][0]
    assert set(first) == {"part", "label", "unit", "value", "sides", "sides_unit", "limit", "at", "series"}
    assert first["value"] == {"median": 1.3, "low": 1.25, "high": 1.4, "n": 3}
    assert first["sides"]["one"]["median"] == 10.0
    assert document["conditions"]["machine"]["cpu_count"] >= 1


def test_a_report_as_markdown() -> None:
    lines = markdown(report()).splitlines()
    assert lines[0] == "**a base with its wrapper**"
    assert "| two ÷ one, 128 tokens | 1.300 | 1.250–1.400 | 1.250 | two 13, one 10 ms |" in lines
    assert "| load [it] | 150 ms | 140–1,325 |  |  |" in lines
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "CPUs, " in lines[-3] and ", threads: 2" in lines[-3]
    assert lines[-1] == "- Something is left."


def test_a_report_on_a_terminal() -> None:
    screen = io.StringIO()
    Console(file=screen, width=120).print(table(report()))
    text = screen.getvalue()
    assert "1.300" in text
    assert "load [it]" in text


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_report_as_a_plot(suffix: str, tmp_path: Path) -> None:
    plot(report(), tmp_path / f"bench.{suffix}")
    assert (tmp_path / f"bench.{suffix}").stat().st_size > 5000


def test_a_plot_needs_an_axis(tmp_path: Path) -> None:
    only_load = Report(title="t", conditions=report().conditions, figures=report().figures[2:])
    with pytest.raises(Error, match="none of the figures lies along an axis"):
        plot(only_load, tmp_path / "bench.png")
