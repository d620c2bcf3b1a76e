"""Plots: their content, text within the page, and identical bytes every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from metadeploy import metrics, plots
from metadeploy._exact import percent
from metadeploy.errors import Error
from metadeploy.plots import style

RNG = np.random.default_rng(0)
DOUBT = RNG.random(400)
RIGHT = RNG.random(400) > DOUBT
NOISE = RNG.random(400)
CATEGORY = {"n": 40, "base_accuracy": 0.25, "coverage": 0.5, "selective_accuracy": 0.75}
CATEGORIES: dict[str, dict[str, Any]] = {
    "chemical symbol of an element": CATEGORY,
    "plural": CATEGORY | {"base_accuracy": 0.6, "selective_accuracy": 0.5},
    "too hard": CATEGORY | {"base_accuracy": 0.0, "coverage": 0.0, "selective_accuracy": None},
}
ROWS: list[dict[str, float | None]] = [
    {"epoch": 1, "loss": 2.0, "val_loss": 2.5, "val_auroc": 0.70},
    {"epoch": 1.5, "loss": 1.5},
    {"epoch": 2, "loss": 1.2, "val_loss": 2.0, "val_auroc": 0.84},
    {"epoch": 3, "loss": 1.0, "val_loss": 2.1, "val_auroc": None},
]
RUNGS = [
    plots.Rung("F32", 540_000_000, 1.0, 0.75),
    plots.Rung("Q8_0", 145_000_000, 0.99, 0.75),
    plots.Rung("Q4_K_M", 105_000_000, 0.96, 0.74),
    plots.Rung("Q2_K", 88_000_000, 0.7, None),
]

Draw = Callable[[Path], None]


def risk_coverage(path: Path) -> None:
    plots.risk_coverage(
        {"Doubter": (DOUBT, RIGHT), "noise": (NOISE, RIGHT)},
        path,
        base_correct=RIGHT,
        operating_point=(0.3, 0.8),
        points={"told that it may decline": [(0.9, 0.5)], "gain": [(1.0, 0.5), (0.5, 0.7)]},
    )


ALL: dict[str, Draw] = {
    "risk_coverage": risk_coverage,
    "doubt_histogram": lambda path: plots.doubt_histogram(DOUBT, RIGHT, 0.5, path),
    "reliability": lambda path: plots.reliability(DOUBT, RIGHT, path),
    "category_bars": lambda path: plots.category_bars(CATEGORIES, path),
    "gates_and_preferences": lambda path: plots.gates_and_preferences({20: 0.1, 21: -0.2}, [[0, 1], [1, 0]], path),
    "training_curves": lambda path: plots.training_curves(ROWS, path),
    "ladder": lambda path: plots.ladder(RUNGS, path, n=400, reference_accuracy=0.75),
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[Draw], Figure]:
    """Call a plot and get its figure instead of a file."""
    figures: list[Figure] = []
    monkeypatch.setattr(style, "_save", lambda figure, path, kind: figures.append(figure))

    def draw(plot: Draw) -> Figure:
        plot(Path("unused.png"))
        return figures.pop()

    return draw


def title(figure: Figure) -> str:
    return figure.get_suptitle().replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ")


def caption(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ")


@pytest.mark.parametrize("kind", ["png", "svg"])
@pytest.mark.parametrize("name", ALL)
def test_the_same_bytes_whatever_the_users_settings(name: str, kind: str, tmp_path: Path) -> None:
    first, again = tmp_path / f"first.{kind}", tmp_path / f"again.{kind}"
    ALL[name](first)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "svg.hashsalt": None}):
        ALL[name](again)
    assert first.read_bytes() == again.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([first.name, again.name])
    head = first.read_bytes()[:200]
    assert head.startswith(b"\x89PNG") if kind == "png" else b"<?xml" in head


@pytest.mark.parametrize("name", ALL)
def test_no_text_runs_off_the_page_or_into_the_axes(name: str, drawn: Callable[[Draw], Figure]) -> None:
    figure = drawn(ALL[name])
    FigureCanvasAgg(figure).draw()
    drawn_on = figure.get_tightbbox()  # in inches
    width, height = figure.get_size_inches()
    assert -0.01 <= drawn_on.x0 < drawn_on.x1 <= width + 0.01
    assert -0.01 <= drawn_on.y0 < drawn_on.y1 <= height + 0.01
    heading, small_print = figure.texts
    assert (heading.get_text(), small_print.get_text()) == (figure.get_suptitle(), figure.get_supxlabel())
    for axes in figure.axes:
        inside = axes.get_tightbbox()
        assert inside is not None
        assert not inside.overlaps(heading.get_window_extent())
        assert not inside.overlaps(small_print.get_window_extent())


def test_risk_coverage_draws_the_curves_of_the_metrics(drawn: Callable[[Draw], Figure]) -> None:
    figure = drawn(risk_coverage)
    (axes,) = figure.axes
    lines = {str(line.get_label()).split("  ")[0]: line for line in axes.get_lines()}
    assert list(lines) == ["Doubter", "noise", "told that it may decline", "gain", "oracle", "base answers all"]
    curve = metrics.risk_coverage(DOUBT, RIGHT)
    np.testing.assert_allclose(np.asarray(lines["Doubter"].get_xdata()), curve.coverage[19:])
    np.testing.assert_allclose(np.asarray(lines["Doubter"].get_ydata()), curve.selective_accuracy[19:])
    oracle = np.asarray(lines["oracle"].get_ydata())
    assert oracle[: RIGHT.sum()].min() == 1
    assert oracle[-1] == pytest.approx(RIGHT.mean())
    np.testing.assert_allclose(np.asarray(lines["base answers all"].get_ydata(), dtype=float), RIGHT.mean())
    band, point = axes.collections
    assert point.get_offsets().tolist() == [[0.3, 0.8]]
    assert band.get_label() != "operating point"
    base = round(100 * RIGHT.mean())
    assert title(figure) == f"At 30 % coverage, 80 % of the answers are right (base alone: {base} %)"
    assert "n = 400 questions" in caption(figure)


def test_risk_coverage_without_an_operating_point(drawn: Callable[[Draw], Figure]) -> None:
    figure = drawn(lambda path: plots.risk_coverage({"Doubter": (DOUBT, RIGHT)}, path, base_correct=RIGHT))
    fifth = metrics.selective_accuracy_at(DOUBT, RIGHT, coverage=0.2) or 0
    assert title(figure).startswith(f"Doubter: {percent(fifth, 0)} % right of the least doubted fifth (base alone: ")


def test_histogram_counts(drawn: Callable[[Draw], Figure]) -> None:
    doubt = np.array([0.01, 0.01, 0.32, 0.99, 0.5, 0.99, 1.0, 0.01])
    right = np.array([True, True, True, True, False, False, False, False])
    figure = drawn(lambda path: plots.doubt_histogram(doubt, right, 0.5, path))
    (axes,) = figure.axes
    heights = [patch.get_height() for patch in axes.patches]
    up, down = heights[:20], heights[20:]
    assert (up[0], up[6], up[19], sum(up)) == pytest.approx((2 / 4, 1 / 4, 1 / 4, 1))
    assert (down[0], down[10], down[19], sum(down)) == pytest.approx((-1 / 4, -1 / 4, -2 / 4, -1))
    assert title(figure) == "Declines 75 % of the base's errors and 25 % of its right answers"


def test_category_bars_are_sorted_and_counted(drawn: Callable[[Draw], Figure]) -> None:
    figure = drawn(ALL["category_bars"])
    left, right = figure.axes
    labels = [label.get_text() for label in left.get_yticklabels()]
    assert labels == ["too hard", "chemical symbol of an element", "plural"]  # from the bottom up
    assert [bar.get_width() for bar in left.patches] == [0, 0.25, 0.6]
    assert [bar.get_width() for bar in right.patches] == [0, 0.5, 0.5]
    dots = [line.get_xdata() for line in left.get_lines() if line.get_marker() == "o" and len(line.get_xdata())]
    assert [float(np.asarray(dot)[0]) for dot in dots] == [0.75, 0.5]
    assert title(figure) == "The answers given beat the base in 1 of 2 categories"
    assert "n = 120 questions" in caption(figure)


def test_categories_of_a_summary_can_be_drawn(tmp_path: Path) -> None:
    category = np.array(["plural", "capital"])[RNG.integers(0, 2, 400)]
    answered = DOUBT < 0.3
    report = metrics.summarize(RIGHT, answered, answered & RIGHT, answered, DOUBT, category, n_bootstrap=1)
    plots.category_bars(report["categories"], tmp_path / "bars.png")
    assert (tmp_path / "bars.png").stat().st_size > 10_000


def test_gates_and_preferences_by_hand(drawn: Callable[[Draw], Figure]) -> None:
    gates, preferences = {22: 0.1, 20: -0.5, 21: 0.0}, [[0.0, np.log(3)], [0.0, 0.0], [np.log(3), 0.0]]
    figure = drawn(lambda path: plots.gates_and_preferences(gates, preferences, path))
    left, right = figure.axes[:2]
    assert [label.get_text() for label in left.get_yticklabels()] == ["20", "21", "22"]
    widths = [bar.get_width() for bar in left.patches]
    assert widths == pytest.approx(np.tanh([-0.5, 0.0, 0.1]))
    (image,) = right.get_images()
    # rows follow their layers: 20 came second, 21 third, 22 first
    np.testing.assert_allclose(np.asarray(image.get_array()), [[0.5, 0.5], [0.75, 0.25], [0.25, 0.75]])
    assert title(figure) == "The gates inject most after block 20: tanh(gate) = -0.462"


def test_training_curves(drawn: Callable[[Draw], Figure]) -> None:
    figure = drawn(ALL["training_curves"])
    losses, auroc = figure.axes
    training, validation = losses.get_lines()
    assert list(np.asarray(training.get_xdata())) == [1, 1.5, 2, 3]
    assert list(np.asarray(validation.get_ydata())) == [2.5, 2.0, 2.1]
    assert list(np.asarray(auroc.get_lines()[0].get_ydata())) == [0.70, 0.84]
    assert title(figure) == "Best validation AUROC 0.840, at epoch 2"
    steps: list[dict[str, float | None]] = [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 0.5}]
    alone = drawn(lambda path: plots.training_curves(steps, path, by="step"))
    assert len(alone.axes) == 1
    assert alone.axes[0].get_xlabel() == "step"


def test_reliability(drawn: Callable[[Draw], Figure]) -> None:
    """Groups of calibrated probabilities lie near the diagonal; those of constant ones are all at one place."""
    figure = drawn(ALL["reliability"])
    line = next(line for line in figure.axes[0].get_lines() if line.get_marker() == "o")
    expected, actual = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    assert len(expected) == 10 and (np.diff(expected) > 0).all()
    assert np.abs(expected - actual).max() < 0.25  # 40 answers in each group
    assert title(figure) == f"Probabilities are off by {metrics.ece(DOUBT, RIGHT):.3f} on average (ECE)"
    few = drawn(lambda path: plots.reliability([0.2, 0.4, 0.9], [True, False, False], path))
    assert len(next(line for line in few.axes[0].get_lines() if line.get_marker() == "o").get_xdata()) == 3


def test_ladder(drawn: Callable[[Draw], Figure]) -> None:
    figure = drawn(ALL["ladder"])
    upper, lower = figure.axes
    assert list(np.asarray(upper.get_lines()[0].get_ydata())) == [1.0, 0.99, 0.96, 0.7]
    assert list(np.asarray(lower.get_lines()[0].get_xdata())) == [0, 1, 2]  # nothing answered at Q2_K
    assert [label.get_text() for label in lower.get_xticklabels()][2] == "Q4_K_M\n105 MB"
    assert title(figure) == "Down to Q4_K_M, at least 95 % of the decisions agree with PyTorch"
    poor = drawn(lambda path: plots.ladder([plots.Rung("Q2_K", 2_500_000_000, 0.7, 0.5)], path, n=10))
    assert title(poor) == "Already Q2_K keeps only 70 % of PyTorch's decisions"
    assert poor.axes[1].get_xticklabels()[0].get_text() == "Q2_K\n2.50 GB"


@pytest.mark.parametrize(
    ("plot", "message"),
    [
        (lambda path: plots.risk_coverage({}, path, base_correct=[True]), "0 curves of 1 questions"),
        (
            lambda path: plots.risk_coverage({"a": ([1.0], [True])}, path, base_correct=[True, False]),
            "'doubt': 1 entries, expected 2 like 'base_correct'",
        ),
        (lambda path: plots.doubt_histogram([0.5], [True], 0.5, path), "1 right answers and 0 errors"),
        (lambda path: plots.reliability([], [], path), "no answers, expected at least one"),
        (lambda path: plots.category_bars({}, path), "no categories, expected at least one"),
        (
            lambda path: plots.gates_and_preferences({1: 0.1}, [[0.1], [0.2]], path),
            r"preferences have shape \[2, 1\], expected \[1, C\] for 1 gates",
        ),
        (lambda path: plots.gates_and_preferences({1: float("nan")}, [[0.1]], path), "not finite, expected numbers"),
        (lambda path: plots.training_curves([{"epoch": 1}], path), "1 rows without a loss or AUROC by epoch"),
        (lambda path: plots.ladder([], path, n=1), "no rungs, expected at least one"),
    ],
)
def test_empty_plots_are_errors(plot: Draw, message: str, tmp_path: Path) -> None:
    with pytest.raises(Error, match=message):
        plot(tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())


def test_unwritable_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"suffix is '.jpg', expected .png or .svg"):
        plots.category_bars(CATEGORIES, tmp_path / "plot.jpg")
    (tmp_path / "file").touch()
    with pytest.raises(Error, match=r"plot '.*plot.png': cannot be written"):
        plots.category_bars(CATEGORIES, tmp_path / "file" / "plot.png")
    (tmp_path / "plot.png").mkdir()
    with pytest.raises(Error, match="cannot be written"):
        plots.category_bars(CATEGORIES, tmp_path / "plot.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "plot.png"]
