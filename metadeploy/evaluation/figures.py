"""The plots of one evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metadeploy.evaluation import plots
from metadeploy.evaluation.results import selective_point
from metadeploy.evaluation.samples import Samples
from metadeploy.reference.doubter import Doubter

__all__ = ["draw"]

#: More curves than these cannot be told apart.
_MOST_CURVES = 5


def draw(
    folder: Path,
    tag: str,
    samples: Samples,
    results: Mapping[str, Any],
    scores: Mapping[str, NDArray[np.float64]],
    doubter: Doubter,
) -> list[Path]:
    """Draw what can be drawn: without a right answer or an error there is no histogram.

    Args:
        folder: where to.
        tag: end of the files' names.
        samples: the questions.
        results: what `metadeploy.evaluation.results.judge` gave, and ``threshold``.
        scores: the baselines' scores, float64 [n] by name.
        doubter: the wrapper, for its gates.

    Returns:
        The files.
    """
    base, doubt = samples.base_correct, samples.doubt
    threshold = results["threshold"]["value"]
    paths = {name: folder / f"{name}_{tag}.png" for name in ("risk_coverage", "doubt", "categories", "gates")}
    curves = {"Doubter": (doubt, samples.answer_correct)}
    curves |= {name: (score, base) for name, score in list(scores.items())[: _MOST_CURVES - 1]}
    told = [row for row in results["baselines"] if row["kind"] == "point"]
    named = {row["name"]: [row] for row in told}
    if results["gains"]:
        lowest, *_, highest = (row["gain"] for row in results["gains"])
        named[f"gain, {lowest:g} to {highest:g}"] = results["gains"]
    points = {
        name: [point for row in rows if (point := selective_point(row)) is not None] for name, rows in named.items()
    }
    plots.risk_coverage(
        curves,
        paths["risk_coverage"],
        base_correct=base,
        operating_point=selective_point(results["metrics"]),
        points={name: found for name, found in points.items() if found},
    )
    if base.any() and not base.all():
        plots.doubt_histogram(doubt, base, threshold, paths["doubt"])
    else:
        paths.pop("doubt")
    plots.category_bars(results["categories"], paths["categories"])
    layers = doubter.config.cross_attn_layers
    plots.gates_and_preferences(
        {layer: float(doubter.cross_attention(layer).gate.detach()) for layer in layers},
        [doubter.cross_attention(layer).token_preference.detach().tolist() for layer in layers],
        paths["gates"],
    )
    return list(paths.values())
