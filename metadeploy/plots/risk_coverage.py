"""Selective accuracy against coverage: what is gained by declining, and against which baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from metadeploy import metrics
from metadeploy.errors import Error
from metadeploy.metrics._inputs import same_length
from metadeploy.plots.style import BLUE, COLOURS, DARK, GREY, page, per_cent, per_cent_axis
from metadeploy.proportion import wilson_interval

__all__ = ["risk_coverage"]

#: Below so many answers a curve is one question's luck.
_FEWEST: Final = 20
_DASHES: Final = ("-", "--", "-.", ":")
_MARKERS: Final = ("D", "^", "s", "v")


def risk_coverage(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    path: Path,
    *,
    base_correct: ArrayLike,
    operating_point: tuple[float, float] | None = None,
    points: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> None:
    """Draw a curve for each score, with the base's accuracy, the oracle and the point at which the Doubter works.

    Args:
        curves: by name a doubt-like score, float [n], and whether the answer is right, bool [n]; the first one is the
            Doubter, drawn with its 95 % band.
        path: ``.png`` or ``.svg``.
        base_correct: bool [n], the base alone is right.
        operating_point: coverage and selective accuracy as measured, each 0 to 1.
        points: by name what has no score of its own, such as a prompt or a sweep: coverage and selective accuracy,
            each 0 to 1.

    Raises:
        Error: no curves, no questions, or the file cannot be written.
        MetricInputError: the arrays are malformed.
    """
    accuracy = metrics.base_accuracy(base_correct)
    if accuracy.value is None or not curves:
        raise Error(f"plot '{path}': {len(curves)} curves of {accuracy.total} questions, expected at least one of each")
    for doubt, _ in curves.values():
        same_length(base_correct=np.asarray(base_correct), doubt=np.asarray(doubt))
    n, base = accuracy.total, accuracy.value
    if operating_point:
        covered, reached = operating_point
        finding = f"At {per_cent(covered)} coverage, {per_cent(reached)} of the answers are right"
    else:
        (name, (doubt, correct)), *_ = curves.items()
        fifth = metrics.selective_accuracy_at(doubt, correct, coverage=0.2) or 0.0
        finding = f"{name}: {per_cent(fifth)} right of the least doubted fifth"
    fewest = min(_FEWEST, n)
    caption = (
        f"n = {n:,} questions. Each curve answers its least doubted questions first (ties averaged) and begins at "
        f"{fewest} answers. Band: Wilson's 95 % interval, as if questions were independent. AURC: mean risk over all "
        "coverages, lower is better."
    )
    with page(path, title=f"{finding} (base alone: {per_cent(base)})", caption=caption, height=6.2) as figure:
        axes = figure.subplots()
        for index, (name, (doubt, correct)) in enumerate(curves.items()):
            _draw(axes, index, name, doubt, correct, fewest)
        for (name, found), marker in zip((points or {}).items(), cycle(_MARKERS)):
            axes.plot(*zip(*found, strict=True), color=DARK, marker=marker, linewidth=0.8, markersize=6, label=name)
        if operating_point:
            axes.scatter(*operating_point, s=120, color=BLUE, edgecolor="white", zorder=4, label="operating point")
        oracle = metrics.risk_coverage(~np.asarray(base_correct), base_correct)
        axes.plot(oracle.coverage, oracle.selective_accuracy, color=GREY, linewidth=1, label="oracle")
        dots = (0, (1, 2))
        axes.axhline(base, color=DARK, linewidth=1, linestyle=dots, label=f"base answers all  ({per_cent(base)})")
        per_cent_axis(axes, "x")
        per_cent_axis(axes, "y", 0, 1.02)
        axes.set_xlabel("coverage: questions answered")
        axes.set_ylabel("selective accuracy: right of the answered")
        # above the axes: inside, it would hide what some curve does
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=2)


def _draw(axes: Axes, index: int, name: str, doubt: ArrayLike, correct: ArrayLike, fewest: int) -> None:
    curve = metrics.risk_coverage(doubt, correct)
    shown = slice(fewest - 1, None)
    coverage, selective = curve.coverage[shown], curve.selective_accuracy[shown]
    colour = COLOURS[index % len(COLOURS)]
    if index == 0:
        answered = range(fewest, len(curve.coverage) + 1)
        band = [wilson_interval(share * k, k) or (share, share) for share, k in zip(selective, answered, strict=True)]
        axes.fill_between(coverage, *np.transpose(band), color=colour, alpha=0.15, linewidth=0)
    axes.plot(
        coverage,
        selective,
        color=colour,
        linewidth=2.6 if index == 0 else 1.6,
        linestyle=_DASHES[index % len(_DASHES)],
        zorder=3 if index == 0 else 2,
        label=f"{name}  (AURC {metrics.aurc(doubt, correct):.3f})",
    )
