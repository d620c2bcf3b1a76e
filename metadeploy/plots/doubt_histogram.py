"""The distribution of doubt over the base's right answers and its errors."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike

from metadeploy.errors import Error
from metadeploy.metrics._inputs import scored
from metadeploy.plots.style import BLUE, DARK, GRAY, VERMILION, page, per_cent, per_cent_axis

__all__ = ["doubt_histogram"]

#: A multiple of two, so that a threshold of 0.5 does not cut through a bar.
_BINS: Final = 20
#: The part of the axis that the text beside the threshold needs.
_LABEL_ROOM: Final = 0.12


def doubt_histogram(doubt: ArrayLike, base_correct: ArrayLike, threshold: float, path: Path) -> None:
    """Draw the base's right answers above the axis and its errors below it, each as proportions of their number.

    Args:
        doubt: float [n] in [0, 1].
        base_correct: bool [n].
        threshold: doubt from which on the Doubter declines, 0 to 1.
        path: ``.png`` or ``.svg``.

    Raises:
        Error: there is no right answer or no error, or the file cannot be written.
        MetricInputError: the arrays are malformed.
    """
    doubts, right = scored(doubt, base_correct, probability=True)
    groups = doubts[right], doubts[~right]
    if not all(map(len, groups)):
        raise Error(
            f"plot '{path}': {len(groups[0])} right answers and {len(groups[1])} errors, expected at least one of each"
        )
    lost, caught = (float((group >= threshold).mean()) for group in groups)
    edges = np.linspace(0, 1, _BINS + 1)
    heights = [np.histogram(group, edges)[0] / len(group) for group in groups]
    top = 1.25 * max(float(height.max()) for height in heights)
    title = f"Declines {per_cent(caught)} of the base's errors and {per_cent(lost)} of its right answers"
    caption = (
        f"n = {len(right):,} questions. Bars: share of the {len(groups[0]):,} right answers (up) and of the "
        f"{len(groups[1]):,} errors (down) with that doubt. Declined if doubt ≥ {threshold:.2f}."
    )
    with page(path, title=title, caption=caption, height=4.6) as figure:
        axes = figure.subplots()
        for sign, shares, color in ((1, heights[0], BLUE), (-1, heights[1], VERMILION)):
            axes.bar(edges[:-1], sign * shares, width=1 / _BINS, align="edge", color=color, edgecolor="white")
        axes.axhline(0, color=DARK, linewidth=1)
        axes.axvline(threshold, color=DARK, linewidth=1.2, linestyle="--")
        per_cent_axis(axes, "x")
        axes.set_ylim(-top, top)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: per_cent(abs(value))))
        axes.set_xlabel("doubt")
        axes.set_ylabel("share of its group")
        frame = axes.get_xaxis_transform()
        sides = ((-0.012, threshold, "right", "◂ answers"), (0.012, 1 - threshold, "left", "declines ▸"))
        for gap, room, alignment, text in sides:
            if room > _LABEL_ROOM:
                axes.text(threshold + gap, 0.97, text, ha=alignment, va="top", color=GRAY, transform=frame, fontsize=10)
        for height, color, text in ((0.86, BLUE, "base right"), (0.06, VERMILION, "base wrong")):
            axes.text(0.015, height, text, color=color, transform=axes.transAxes, fontweight="bold")
