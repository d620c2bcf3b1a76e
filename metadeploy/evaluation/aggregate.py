"""Means over several runs of the same training with different seeds, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metadeploy.evaluation.scoring import SCHEMA
from metadeploy.metrics import seed_mean

__all__ = ["over_runs"]


def over_runs(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compute the mean of every metric over runs, with Student's 95 % interval.

    Args:
        results: the results of each run, from `metadeploy.evaluation.runner.evaluate`.

    Returns:
        ``runs`` (name and file of samples of each run), ``metrics`` and ``baselines``: by name ``{"mean", "low",
        "high", "n"}``, where n is the number of runs in which the metric is defined; low and high are None for a single
        run. ``least_doubted`` has the same keys and ``coverage``, for each of
        `metadeploy.evaluation.scoring.COVERAGES`. A baseline has ``auroc``, ``macro_auroc`` and ``selective_accuracy``,
        the ``doubter_selective_accuracy`` at the same coverage, and ``p_values``, one for each run. Only baselines of
        all runs are included.
    """
    first = results[0]
    by_name = [{row["name"]: row for row in run["baselines"]} for run in results]
    shared = [name for name in by_name[0] if all(name in rows for rows in by_name)]
    return {
        "schema": SCHEMA,
        "runs": [{"run": run["config"]["run"], **run["samples"]} for run in results],
        "metrics": {name: _mean([run["metrics"][name]["value"] for run in results]) for name in first["metrics"]},
        "least_doubted": [
            {"coverage": rows[0]["coverage"], **_mean([row["value"] for row in rows])}
            for rows in zip(*(run["least_doubted"] for run in results), strict=True)
        ],
        "baselines": {name: _baseline([rows[name] for rows in by_name]) for name in shared},
    }


def _baseline(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    columns = {key: [row[key]["value"] for row in rows] for key in _KEYS if key in rows[0]}
    columns["doubter_selective_accuracy"] = [row["doubter"]["selective_accuracy"]["value"] for row in rows]
    means: dict[str, Any] = {key: _mean(values) for key, values in columns.items()}
    return {**means, "p_values": [row["doubter"]["p_value"] for row in rows]}


_KEYS = ("coverage", "auroc", "macro_auroc", "selective_accuracy")


def _mean(values: Sequence[float | None]) -> dict[str, Any]:
    defined = [value for value in values if value is not None]
    mean = seed_mean(defined)
    low, high = (mean.interval if mean is not None else None) or (None, None)
    return {"mean": None if mean is None else mean.mean, "low": low, "high": high, "n": len(defined)}
