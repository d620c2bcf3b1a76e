"""The quantization ladder: agreement of the decisions and selective accuracy, for smaller and smaller types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from metadeploy.errors import Error
from metadeploy.plots.style import BLUE, GRAY, VERMILION, page, per_cent, per_cent_axis

__all__ = ["Rung", "ladder"]

#: The title names the last rung with at least this agreement.
_MIN_AGREEMENT: Final = 0.95
#: A white box behind numbers, so that no line crosses them.
_TEXT_BOX: Final = {"facecolor": "white", "linewidth": 0, "pad": 1}


@dataclass(frozen=True)
class Rung:
    """One element type of the base, or of the sidecar.

    Attributes:
        name: ``F32``, ``Q4_K_M``, ….
        size: bytes of the file.
        agreement: proportion of questions on which it answers or declines like PyTorch in F32, 0 to 1.
        selective_accuracy: 0 to 1; None if nothing is answered.
    """

    name: str
    size: int
    agreement: float
    selective_accuracy: float | None


def ladder(rungs: Sequence[Rung], path: Path, *, n: int, reference_accuracy: float | None = None) -> None:
    """Draw agreement and selective accuracy of each rung, from left to right.

    Args:
        rungs: largest first.
        path: ``.png`` or ``.svg``.
        n: number of questions.
        reference_accuracy: selective accuracy of PyTorch in F32, 0 to 1, drawn as a line.

    Raises:
        Error: there are no rungs, or the file cannot be written.
    """
    if not rungs:
        raise Error(f"plot '{path}': no rungs, expected at least one")
    agreeing = list(takewhile(lambda rung: rung.agreement >= _MIN_AGREEMENT, rungs))
    first = rungs[0]
    title = (
        f"Down to {agreeing[-1].name}, at least {per_cent(_MIN_AGREEMENT)} of the decisions agree with PyTorch"
        if agreeing
        else f"Already {first.name} keeps only {per_cent(first.agreement)} of PyTorch's decisions"
    )
    caption = (
        f"n = {n:,} questions. Decision: to answer or to decline, compared with PyTorch in F32. "
        "Below the types: size of the file. The axes do not begin at 0."
    )
    with page(path, title=title, caption=caption, height=5.6) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True)
        _draw(upper, [rung.agreement for rung in rungs], BLUE)
        upper.axhline(_MIN_AGREEMENT, color=GRAY, linewidth=1, linestyle=(0, (1, 2)))
        upper.set_title("decisions that agree")
        _draw(lower, [rung.selective_accuracy for rung in rungs], VERMILION)
        lower.set_title("selective accuracy: right of the answered")
        if reference_accuracy is not None:
            lower.axhline(reference_accuracy, color=GRAY, linewidth=1, linestyle=(0, (1, 2)))
            label = f"PyTorch {per_cent(reference_accuracy)}"
            lower.annotate(
                label, (1, reference_accuracy), xycoords=("axes fraction", "data"), xytext=(-2, 3),
                textcoords="offset points", ha="right", color=GRAY, fontsize=9,
            )  # fmt: skip
        lower.set_xticks(range(len(rungs)), [f"{rung.name}\n{_size(rung.size)}" for rung in rungs])
        lower.set_xlim(-0.5, len(rungs) - 0.5)


def _draw(axes: Axes, values: Sequence[float | None], color: str) -> None:
    points = [(position, value) for position, value in enumerate(values) if value is not None]
    heights = [value for _, value in points]
    if points:
        axes.plot(*zip(*points, strict=True), color=color, marker="o", markersize=7)
    for point in points:
        text = per_cent(point[1], digits=1)
        axes.annotate(text, point, xytext=(1, 7), textcoords="offset points", fontsize=9.5, bbox=_TEXT_BOX)
    low, high = min(heights, default=0.0), max(heights, default=1.0)
    room = max(0.03, 0.35 * (high - low))
    per_cent_axis(axes, "y", max(0.0, low - room), min(1.0, high) + room)
    axes.yaxis.set_major_locator(
        MaxNLocator(5, steps=[1, 2, 5, 10])
    )  # the range is wide enough for ticks at whole percents
    axes.grid(axis="x", visible=False)


def _size(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"
