"""Draws the plots of one evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metadeploy import plots
from metadeploy.evaluation.samples import Samples
from metadeploy.evaluation.scoring import selective_point

__all__ = ["draw_plots"]

#: With more curves, a reader cannot distinguish them.
_MAX_CURVES = 5


def draw_plots(
    folder: Path,
    tag: str,
    samples: Samples,
    results: Mapping[str, Any],
    scores: Mapping[str, NDArray[np.float64]],
    gates: Mapping[int, float],
    token_preferences: Sequence[Sequence[float]],
) -> list[Path]:
    """Draw all plots that the data allows: without right answers or without errors, there is no histogram.

    Args:
        folder: folder for the files.
        tag: end of the files' names.
        samples: the questions.
        results: the results of `metadeploy.evaluation.scoring.score_samples`, and ``threshold``.
        scores: the baselines' scores, float64 [n] by name.
        gates: gates of the wrapper's cross-attention by layer, before the tanh.
        token_preferences: [C] token preferences of the cross-attention by layer.

    Returns:
        The files.
    """
    base, doubt = samples.base_correct, samples.doubt
    threshold = results["threshold"]["value"]
    paths = {name: folder / f"{name}_{tag}.png" for name in ("risk_coverage", "doubt", "categories", "gates")}
    curves = {"Doubter": (doubt, samples.answer_correct)}
    curves |= {name: (score, base) for name, score in list(scores.items())[: _MAX_CURVES - 1]}
    rows_by_name = {row["name"]: [row] for row in results["baselines"] if row["kind"] == "point"}
    if results["gains"]:
        lowest, *_, highest = (row["gain"] for row in results["gains"])
        rows_by_name[f"gain, {lowest:g} to {highest:g}"] = results["gains"]
    points = {
        name: [point for row in rows if (point := selective_point(row)) is not None]
        for name, rows in rows_by_name.items()
    }
    plots.risk_coverage(
        curves,
        paths["risk_coverage"],
        base_correct=base,
        operating_point=selective_point(results["metrics"]),
        points={name: line for name, line in points.items() if line},
    )
    if base.any() and not base.all():
        plots.doubt_histogram(doubt, base, threshold, paths["doubt"])
    else:
        paths.pop("doubt")
    plots.category_bars(results["categories"], paths["categories"])
    plots.gates_and_preferences(gates, token_preferences, paths["gates"])
    return list(paths.values())
