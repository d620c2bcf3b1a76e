"""Several runs of the same training with other seeds: their means, and how far they spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metadeploy.evaluation.scoring import SCHEMA
from metadeploy.metrics import seed_mean

__all__ = ["over_runs"]


def over_runs(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean of every metric over runs, with Student's 95 % interval.

    Args:
        results: of each run, as `metadeploy.evaluation.runner.evaluate` writes them.

    Returns:
        ``runs`` (name and file of samples of each), ``metrics`` and ``baselines``: by name ``{"mean", "low", "high",
        "n"}``, n the runs in which it is defined; low and high are None for a single one. ``least_doubted``: the same
        with its ``coverage`` for each of `metadeploy.evaluation.scoring.LEAST_DOUBTED`. Of a baseline there are its
        ``auroc``, ``macro_auroc`` and ``selective_accuracy``, the ``doubter_selective_accuracy`` at the same coverage,
        and ``p_values``, one for each run. A baseline counts if every run has it.
    """
    first = results[0]
    by_name = [{row["name"]: row for row in each["baselines"]} for each in results]
    shared = [name for name in by_name[0] if all(name in rows for rows in by_name)]
    return {
        "schema": SCHEMA,
        "runs": [{"run": each["config"]["run"], **each["samples"]} for each in results],
        "metrics": {name: _mean([each["metrics"][name]["value"] for each in results]) for name in first["metrics"]},
        "least_doubted": [
            {"coverage": rows[0]["coverage"], **_mean([row["value"] for row in rows])}
            for rows in zip(*(each["least_doubted"] for each in results), strict=True)
        ],
        "baselines": {name: _baseline([rows[name] for rows in by_name]) for name in shared},
    }


def _baseline(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = {key: [row[key]["value"] for row in rows] for key in _KEYS if key in rows[0]}
    values["doubter_selective_accuracy"] = [row["doubter"]["selective_accuracy"]["value"] for row in rows]
    means: dict[str, Any] = {key: _mean(found) for key, found in values.items()}
    return {**means, "p_values": [row["doubter"]["p_value"] for row in rows]}


_KEYS = ("coverage", "auroc", "macro_auroc", "selective_accuracy")


def _mean(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    found = seed_mean(known)
    low, high = (found.interval if found is not None else None) or (None, None)
    return {"mean": None if found is None else found.mean, "low": low, "high": high, "n": len(known)}
