"""Selective accuracy against coverage, for the Doubter and the baselines."""

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
from metadeploy.plots.style import BLUE, COLORS, DARK, GRAY, page, per_cent, per_cent_axis
from metadeploy.proportion import wilson_interval

__all__ = ["risk_coverage"]

#: Curves start at this number of answers. With fewer, a single question moves them too much.
_MIN_ANSWERS: Final = 20
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
    """Draw a curve for each score, with the base's accuracy, the oracle and the operating point of the Doubter.

    Args:
        curves: by name a doubt-like score, float [n], and whether the answer is right, bool [n]. The first curve is the
            Doubter, drawn with its 95 % band.
        path: ``.png`` or ``.svg``.
        base_correct: bool [n], the base alone is right.
        operating_point: measured coverage and selective accuracy, each 0 to 1.
        points: by name methods without a score, such as a prompt or a sweep: coverage and selective accuracy, each 0
            to 1.

    Raises:
        Error: there are no curves or no questions, or the file cannot be written.
        MetricInputError: the arrays are malformed.
    """
    accuracy = metrics.base_accuracy(base_correct)
    if accuracy.value is None or not curves:
        raise Error(f"plot '{path}': {len(curves)} curves of {accuracy.total} questions, expected at least one of each")
    for doubt, _ in curves.values():
        same_length(base_correct=np.asarray(base_correct), doubt=np.asarray(doubt))
    n, base = accuracy.total, accuracy.value
    if operating_point:
        coverage, selective = operating_point
        result = f"At {per_cent(coverage)} coverage, {per_cent(selective)} of the answers are right"
    else:
        (name, (doubt, correct)), *_ = curves.items()
        selective = metrics.selective_accuracy_at(doubt, correct, coverage=0.2) or 0.0
        result = f"{name}: {per_cent(selective)} right of the least doubted fifth"
    min_answers = min(_MIN_ANSWERS, n)
    caption = (
        f"n = {n:,} questions. Each curve answers its least doubted questions first (ties averaged) and begins at "
        f"{min_answers} answers. Band: Wilson's 95 % interval, as if questions were independent. AURC: mean risk over "
        "all coverages, lower is better."
    )
    with page(path, title=f"{result} (base alone: {per_cent(base)})", caption=caption, height=6.2) as figure:
        axes = figure.subplots()
        for index, (name, (doubt, correct)) in enumerate(curves.items()):
            _draw(axes, index, name, doubt, correct, min_answers)
        for (name, line), marker in zip((points or {}).items(), cycle(_MARKERS)):
            axes.plot(*zip(*line, strict=True), color=DARK, marker=marker, linewidth=0.8, markersize=6, label=name)
        if operating_point:
            axes.scatter(*operating_point, s=120, color=BLUE, edgecolor="white", zorder=4, label="operating point")
        oracle = metrics.risk_coverage(~np.asarray(base_correct), base_correct)
        axes.plot(oracle.coverage, oracle.selective_accuracy, color=GRAY, linewidth=1, label="oracle")
        dots = (0, (1, 2))
        axes.axhline(base, color=DARK, linewidth=1, linestyle=dots, label=f"base answers all  ({per_cent(base)})")
        per_cent_axis(axes, "x")
        per_cent_axis(axes, "y", 0, 1.02)
        axes.set_xlabel("coverage: questions answered")
        axes.set_ylabel("selective accuracy: right of the answered")
        # above the axes, because inside it would hide part of a curve
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=2)


def _draw(axes: Axes, index: int, name: str, doubt: ArrayLike, correct: ArrayLike, min_answers: int) -> None:
    curve = metrics.risk_coverage(doubt, correct)
    coverage, selective = curve.coverage[min_answers - 1 :], curve.selective_accuracy[min_answers - 1 :]
    color = COLORS[index % len(COLORS)]
    if index == 0:
        n_answers = range(min_answers, len(curve.coverage) + 1)
        band = [wilson_interval(share * k, k) or (share, share) for share, k in zip(selective, n_answers, strict=True)]
        axes.fill_between(coverage, *np.transpose(band), color=color, alpha=0.15, linewidth=0)
    axes.plot(
        coverage,
        selective,
        color=color,
        linewidth=2.6 if index == 0 else 1.6,
        linestyle=_DASHES[index % len(_DASHES)],
        zorder=3 if index == 0 else 2,
        label=f"{name}  (AURC {metrics.aurc(doubt, correct):.3f})",
    )
