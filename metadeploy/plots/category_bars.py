"""Base accuracy, coverage and selective accuracy of each kind of question."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes

from metadeploy.errors import Error
from metadeploy.plots.style import BLUE, DARK, GRAY, LIGHT, SKY, page, per_cent_axis

__all__ = ["category_bars"]

#: With fewer answers, a category's selective accuracy is mostly chance.
_FEW: Final = 10


def category_bars(categories: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw a row for each category, sorted by base accuracy, the highest on top.

    Args:
        categories: by name ``n`` (at least 1), ``base_accuracy``, ``coverage`` (each 0 to 1) and
            ``selective_accuracy`` (None if nothing is answered), as in ``summarize(...)["categories"]``.
        path: ``.png`` or ``.svg``.

    Raises:
        Error: there are no categories, or the file cannot be written.
    """
    if not categories:
        raise Error(f"plot '{path}': no categories, expected at least one")
    rows = sorted(categories.items(), key=lambda item: (item[1]["base_accuracy"], item[0]))
    answered = [row for _, row in rows if row["selective_accuracy"] is not None]
    n_better = sum(row["selective_accuracy"] > row["base_accuracy"] for row in answered)
    title = f"The answers given beat the base in {n_better} of {len(answered)} categories"
    caption = (
        f"n = {sum(row['n'] for _, row in rows):,} questions, sorted by base accuracy. "
        f"Hollow: fewer than {_FEW} answers; no dot: none."
    )
    with page(path, title=title, caption=caption, height=2.3 + 0.27 * len(rows)) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(5, 3))
        positions = range(len(rows))
        left.barh(positions, [row["base_accuracy"] for _, row in rows], color=LIGHT, height=0.72, label="base, of all")
        for position, (_, row) in enumerate(rows):
            _selective(left, position, row)
            right.text(1.08, position, f"{row['n']:,}", va="center", color=GRAY, fontsize=9)
        right.text(1.08, len(rows) - 0.2, "n", va="bottom", color=GRAY, fontsize=9)
        left.plot([], [], "o", color=BLUE, markersize=7, label="Doubter, of the answered")  # only for the legend
        left.legend(title="right answers", loc="lower left", bbox_to_anchor=(-0.03, 1), ncols=2, columnspacing=1)
        right.barh(positions, [row["coverage"] for _, row in rows], color=SKY, height=0.72, label="answered, of n")
        right.legend(title="coverage", loc="lower left", bbox_to_anchor=(-0.05, 1))
        for axes, ticks in ((left, 5), (right, 3)):
            axes.get_legend().set_alignment("left")
            axes.set_xticks(np.linspace(0, 1, ticks))
            per_cent_axis(axes, "x", 0, 1.02)
            axes.grid(axis="y", visible=False)
            axes.spines["left"].set_visible(False)
        left.set_yticks(positions, [name for name, _ in rows])
        left.set_ylim(-0.6, len(rows) - 0.4)


def _selective(axes: Axes, position: int, row: Mapping[str, Any]) -> None:
    selective, base = row["selective_accuracy"], row["base_accuracy"]
    if selective is None:
        return
    face = BLUE if round(row["coverage"] * row["n"]) >= _FEW else "white"
    axes.plot([base, selective], [position] * 2, color=BLUE if selective >= base else DARK, linewidth=1.4)
    axes.plot(selective, position, "o", color=BLUE, markerfacecolor=face, markersize=7, clip_on=False)
