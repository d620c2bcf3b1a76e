"""Each kind of question: how good the base is, how much is answered, and how much of that is right."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes

from metadeploy.errors import Error
from metadeploy.plots.style import BLUE, DARK, GREY, LIGHT, SKY, page, per_cent_axis

__all__ = ["category_bars"]

#: With fewer answers a category's selective accuracy is hardly more than luck.
_FEW: Final = 10


def category_bars(categories: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw a row for each category, those that the base knows best on top.

    Args:
        categories: by name ``n`` (at least 1), ``base_accuracy``, ``coverage`` (each 0 to 1) and
            ``selective_accuracy`` (None where nothing is answered), as ``summarise(...)["categories"]`` has them.
        path: ``.png`` or ``.svg``.

    Raises:
        Error: no categories, or the file cannot be written.
    """
    if not categories:
        raise Error(f"plot '{path}': no categories, expected at least one")
    rows = sorted(categories.items(), key=lambda item: (item[1]["base_accuracy"], item[0]))
    answered = [(row["selective_accuracy"], row["base_accuracy"]) for _, row in rows]
    compared = [(found, base) for found, base in answered if found is not None]
    better = sum(found > base for found, base in compared)
    title = f"The answers given beat the base in {better} of {len(compared)} categories"
    caption = (
        f"n = {sum(row['n'] for _, row in rows):,} questions, sorted by base accuracy. "
        f"Hollow: fewer than {_FEW} answers; no dot: none."
    )
    with page(path, title=title, caption=caption, height=2.3 + 0.27 * len(rows)) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(5, 3))
        places = range(len(rows))
        left.barh(places, [row["base_accuracy"] for _, row in rows], color=LIGHT, height=0.72, label="base, of all")
        for place, (_, row) in enumerate(rows):
            _selective(left, place, row)
            right.text(1.08, place, f"{row['n']:,}", va="center", color=GREY, fontsize=9)
        right.text(1.08, len(rows) - 0.2, "n", va="bottom", color=GREY, fontsize=9)
        left.plot([], [], "o", color=BLUE, markersize=7, label="Doubter, of the answered")  # for the legend alone
        left.legend(title="right answers", loc="lower left", bbox_to_anchor=(-0.03, 1), ncols=2, columnspacing=1)
        right.barh(places, [row["coverage"] for _, row in rows], color=SKY, height=0.72, label="answered, of n")
        right.legend(title="coverage", loc="lower left", bbox_to_anchor=(-0.05, 1))
        for axes, ticks in ((left, 5), (right, 3)):
            axes.get_legend().set_alignment("left")
            axes.set_xticks(np.linspace(0, 1, ticks))
            per_cent_axis(axes, "x", 0, 1.02)
            axes.grid(axis="y", visible=False)
            axes.spines["left"].set_visible(False)
        left.set_yticks(places, [name for name, _ in rows])
        left.set_ylim(-0.6, len(rows) - 0.4)


def _selective(axes: Axes, place: int, row: Mapping[str, Any]) -> None:
    found, base = row["selective_accuracy"], row["base_accuracy"]
    if found is None:
        return
    firm = round(row["coverage"] * row["n"]) >= _FEW
    axes.plot([base, found], [place, place], color=BLUE if found >= base else DARK, linewidth=1.4)
    axes.plot(found, place, "o", color=BLUE, markerfacecolor=BLUE if firm else "white", markersize=7, clip_on=False)
