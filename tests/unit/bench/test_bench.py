"""The benchmark's figures: pairs, spreads, theoretical limits, and the forms of a report."""

from __future__ import annotations

import io
import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from synthetic_base import SHAPES, synthetic_base, tensors
from synthetic_doubter import SHAPES as DOUBTERS

from metadeploy import Error
from metadeploy.bench import BenchSettings, Figure, Report, Spread
from metadeploy.bench.limits import Limits, limits
from metadeploy.bench.measurements import SCHEMA, machine
from metadeploy.bench.plot import plot
from metadeploy.bench.report import markdown, table
from metadeploy.bench.timing import interleave, timed

LIMITS = Limits(
    blocks=(10.0, 10.0, 20.0, 20.0), head=30.0, weight_bytes=100.0, entry=1, injection=2.0, table_bytes=25.0
)


def report() -> Report:
    sides = {"two": np.array([13.0, 15.0, 12.0]), "one": np.array([10.0, 10.0, 10.0])}
    figures = (
        Figure.ratio("prompt", "two ÷ one, 128 tokens", sides, unit="ms", limit=(1.25, 1.25), at=128, series="all"),
        Figure.ratio("prompt", "two ÷ one, 512 tokens", sides, unit="ms", limit=(1.2, 1.2), at=512, series="all"),
        Figure(part="load", label="load [it]", unit="ms", value=Spread.of(np.array([150.0, 2500.0, 130.0]))),
    )
    conditions = {"machine": machine(), "load_average_after": [0.5, 0.5, 0.5], "threads": 2}
    return Report(title="a base with its wrapper", conditions=conditions, figures=figures, notes=("something is left",))


def test_kinds_take_turns_and_the_order_is_reversed() -> None:
    order: list[str] = []
    progress: list[tuple[str, int, int]] = []

    def kind(name: str, value: float) -> float:
        order.append(name)
        return value

    kinds = {"a": lambda: kind("a", 1.0), "b": lambda: kind("b", 2.0)}
    times = interleave(kinds, rounds=3, what="both", tick=lambda *so_far: progress.append(so_far))
    assert "".join(order) == "abbaab"
    assert progress == [("both", done, 3) for done in range(4)]
    assert {name: values.tolist() for name, values in times.items()} == {"a": [1.0] * 3, "b": [2.0] * 3}


def test_a_steady_drift_cancels_out() -> None:
    clock = iter(range(100))
    times = interleave({"a": lambda: float(next(clock)), "b": lambda: float(next(clock))}, rounds=4)
    assert times["a"].sum() == times["b"].sum()


def test_timed_is_in_milliseconds() -> None:
    assert 10 <= timed(lambda: time.sleep(0.01)) < 1000


def test_a_ratio_is_the_median_of_pairs() -> None:
    sides = {"two": np.array([2.0, 30.0, 4.0]), "one": np.array([1.0, 10.0, 4.0])}
    figure = Figure.ratio("prompt", "p", sides, unit="ms")
    assert figure.value == Spread(median=2.0, low=1.5, high=2.5, n=3)
    assert figure.sides["two"].median == 4.0
    assert (figure.unit, figure.sides_unit) == ("×", "ms")


def test_limits_by_hand() -> None:
    assert LIMITS.prompt(10, "prompt") == pytest.approx(1 + ((40 + 2) * 10 + 30) / (600 + 30))
    assert LIMITS.prompt(10, "last_prompt_token") == pytest.approx(1 + (40 + 2 + 30) / 630)
    assert LIMITS.prompt(10, "prompt", n_reused=10) == pytest.approx((30 + (40 + 2) * 10 + 30) / (600 + 30))
    assert LIMITS.decode(1) == pytest.approx((100 / 125, 90 / 92))
    assert LIMITS.decode(4) == pytest.approx((100 / 200, 90 / 92))


def test_limits_of_a_base(tmp_path: Path) -> None:
    bounds = limits(synthetic_base(tmp_path, "tiny"), DOUBTERS["tiny"])
    assert bounds is not None
    shapes = {name: dims for name, dims, _ in tensors(SHAPES["tiny"]) if len(dims) > 1}
    assert sum(bounds.blocks) + bounds.head == sum(math.prod(dims) for dims in shapes.values())
    assert bounds.head == 512 * 256
    assert bounds.entry == 5
    assert bounds.injection == 3 * 2 * 256 * 4 * 3
    assert bounds.table_bytes == 4 * bounds.injection
    assert len(bounds.blocks) == 8
    assert 0.5 < bounds.weight_bytes / (sum(bounds.blocks) + bounds.head) < 0.8  # bytes for each weight in 4 to 6 bits


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


def test_the_short_form_is_shorter_in_everything() -> None:
    whole = BenchSettings(base=Path("b"), sidecar=Path("s"))
    short = whole.quick()
    assert whole.pairs >= 7
    assert short.pairs < whole.pairs
    assert short.steps < whole.steps
    assert max(short.prompts) < min(whole.prompts)
    assert len(short.sequences) < len(whole.sequences)
