"""Measures a verdict on the test questions, and compares it with each baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from metadeploy.metrics import (
    AUROCDifference,
    auroc,
    auroc_difference,
    brier,
    ece,
    ece_noise_floor,
    holm,
    macro_auroc,
    selective_accuracies_at,
)
from metadeploy.verdict.answers import Answers
from metadeploy.verdict.baselines import BASELINES, Baseline

__all__ = ["compared", "draw_plots", "measured"]

#: Proportions of the questions, the least doubted ones, whose accuracy is measured.
_COVERAGES: Final = (0.1, 0.2, 0.31, 0.5)
#: With fewer questions, the ECE of a kind is mostly noise.
_MIN_KIND: Final = 50
#: Baselines whose curves are drawn. With more, a reader could not distinguish them.
_DRAWN: Final = ("logprob_sum", "tfidf_answer", "prompt_mlp", "answer_mean")


def measured(p_wrong: NDArray[np.float64], test: Answers) -> dict[str, Any]:
    """Return the figures of a calibrated verdict, ready for JSON.

    Args:
        p_wrong: float64 [n] in [0, 1].
        test: the answers that it judges.
    """
    return {
        **_ranking(p_wrong, test),
        "ece": ece(p_wrong, test.correct),
        "ece_noise_floor": ece_noise_floor(p_wrong),
        "ece_worst_kind": _worst_kind(p_wrong, test),
        "brier": brier(p_wrong, test.correct),
    }


def draw_plots(
    folder: Path, p_wrong: NDArray[np.float64], baselines: Sequence[Baseline], test: Answers
) -> tuple[Path, Path]:
    """Draw how reliable the probabilities are, and accuracy against coverage beside the strongest baselines.

    Args:
        folder: folder for the files, which exists.
        p_wrong: the verdict, float64 [n] in [0, 1].
        baselines: the baselines.
        test: the answers that all of them judge.

    Returns:
        The two files.
    """
    from metadeploy import plots

    reliability, risk_coverage = folder / "reliability.png", folder / "risk_coverage.png"
    plots.reliability(p_wrong, test.correct, reliability)
    curves = {"verdict": (p_wrong, test.correct)}
    curves |= {baseline.name: (baseline.doubt, test.correct) for baseline in baselines if baseline.name in _DRAWN}
    plots.risk_coverage(curves, risk_coverage, base_correct=test.correct)
    return reliability, risk_coverage


def compared(
    p_wrong: NDArray[np.float64],
    baselines: Sequence[Baseline],
    test: Answers,
    *,
    n_resamples: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Return the figures of each baseline, and how far the verdict is ahead of it, ready for JSON.

    Differences come from a paired bootstrap over entities. Their p-values are adjusted by Holm's method over the
    baselines.

    Args:
        p_wrong: the verdict, float64 [n].
        baselines: the baselines.
        test: the answers that both judge.
        n_resamples: draws of the bootstrap.
        seed: seed of the draws.
        progress: called with the number of baselines that are done, and of all.
    """
    rows: dict[str, Any] = {}
    for n_done, baseline in enumerate(baselines):
        progress(n_done, len(baselines))
        options: dict[str, Any] = {"entity": test.entity, "n_resamples": n_resamples, "seed": seed}
        ahead = {
            "auroc": auroc_difference(p_wrong, baseline.doubt, test.correct, **options),
            "macro_auroc": auroc_difference(p_wrong, baseline.doubt, test.correct, category=test.category, **options),
        }
        rows[baseline.name] = {
            "about": BASELINES[baseline.name],
            **_ranking(baseline.doubt, test),
            "ahead": {name: _difference(value) for name, value in ahead.items()},
        }
    progress(len(baselines), len(baselines))
    for name in ("auroc", "macro_auroc"):
        ahead_of = [row["ahead"][name] for row in rows.values()]
        known = [row for row in ahead_of if row is not None and row["p_value"] is not None]
        for row, adjusted in zip(known, holm([row["p_value"] for row in known]), strict=True):
            row["p_holm"] = adjusted
    return rows


def _worst_kind(p_wrong: NDArray[np.float64], test: Answers) -> dict[str, Any] | None:
    """Return the kind with the largest ECE among those with enough questions, and what perfect verdicts would have."""
    worst: dict[str, Any] | None = None
    for kind in np.unique(test.category).tolist():
        members = test.category == kind
        error = ece(p_wrong[members], test.correct[members])
        if error is not None and members.sum() >= _MIN_KIND and (worst is None or error > worst["ece"]):
            floor = ece_noise_floor(p_wrong[members])
            worst = {"category": kind, "n": int(members.sum()), "ece": error, "ece_noise_floor": floor}
    return worst


def _ranking(doubt: NDArray[np.float64], test: Answers) -> dict[str, Any]:
    accuracies = selective_accuracies_at(doubt, test.correct, coverages=_COVERAGES)
    return {
        "auroc": auroc(doubt, test.correct),
        "macro_auroc": macro_auroc(doubt, test.correct, test.category),
        "selective_accuracy": dict(zip(map(str, _COVERAGES), accuracies, strict=True)),
    }


def _difference(difference: AUROCDifference | None) -> dict[str, Any] | None:
    if difference is None:
        return None
    low, high = difference.interval or (None, None)
    return {"value": difference.value, "low": low, "high": high, "p_value": difference.p_value}
