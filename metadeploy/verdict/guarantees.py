"""Looks for thresholds of a verdict whose error rate is guaranteed, and notes them in a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from metadeploy.metrics import Guarantee, guaranteed_threshold, most_evident_threshold, one_per_entity
from metadeploy.sidecar.verdict import ErrorGuarantee, VerdictConfig

__all__ = ["ERROR_RATES", "find_guarantees", "kept_on", "simulate_guarantees", "with_guarantees"]

#: Error rates for which a guarantee is looked for.
ERROR_RATES: Final = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
#: Thresholds that may get a guarantee: quantiles of ``p_wrong`` on the validation questions.
_N_CANDIDATES: Final = 100


def find_guarantees(
    val: NDArray[np.float64],
    val_correct: NDArray[np.bool_],
    calibration: NDArray[np.float64],
    correct: NDArray[np.bool_],
    entity: NDArray[np.str_],
    *,
    delta: float,
    seed: int,
) -> list[Guarantee]:
    """Return a guarantee for each error rate that has one.

    Args:
        val: ``p_wrong`` of the validation answers, float64 [m], which choose the candidates and where tests begin.
        val_correct: bool [m], whether the validation answers are right.
        calibration: ``p_wrong`` of the calibration answers, float64 [n].
        correct: bool [n], whether the calibration answers are right.
        entity: text [n], the entities of the calibration questions. One question of each is used.
        delta: probability that a guarantee may fail.
        seed: seed that chooses the question of each entity.
    """
    candidates = _candidates(val)
    chosen = one_per_entity(entity, seed=seed)
    found = (
        guaranteed_threshold(
            calibration[chosen], correct[chosen], candidates=candidates, max_error=max_error, delta=delta, start=start
        )
        for max_error, start in _starts(val, val_correct, candidates).items()
    )
    return [guarantee for guarantee in found if guarantee is not None]


def simulate_guarantees(
    val: NDArray[np.float64],
    val_correct: NDArray[np.bool_],
    p_wrong: NDArray[np.float64],
    correct: NDArray[np.bool_],
    entity: NDArray[np.str_],
    *,
    delta: float,
    seed: int,
    n_draws: int = 200,
) -> list[dict[str, Any]]:
    """Count how often guarantees are broken, if some answers are taken for all that there are.

    Each draw takes as many questions as there are entities, with replacement, and looks for a threshold on them. The
    guarantee is broken if the error rate of that threshold is too high on all answers, from which the draw came. The
    naive threshold is the highest candidate whose error rate on the draw is low enough.

    Args:
        val: as in `find_guarantees`.
        val_correct: as in `find_guarantees`.
        p_wrong: verdicts, float64 [n].
        correct: bool [n].
        entity: text [n]; one question of each is used.
        delta: probability that a guarantee may fail.
        seed: seed of the draws.
        n_draws: number of draws.

    Returns:
        For each error rate ``max_error``, ``n_draws``, ``found`` (proportion of draws with a guarantee), ``broken``
        (with a broken one) and ``naive_broken``.
    """
    candidates, rng = _candidates(val), np.random.default_rng(seed)
    starts = _starts(val, val_correct, candidates)
    chosen = one_per_entity(entity, seed=seed)
    values, right = p_wrong[chosen], correct[chosen]
    error_rates = _error_rates(values, right, candidates)
    counts = np.zeros((len(ERROR_RATES), 3), dtype=np.int_)
    for _ in range(n_draws):
        drawn = rng.integers(len(values), size=len(values))
        drawn_rates = _error_rates(values[drawn], right[drawn], candidates)
        for row, (max_error, start) in zip(counts, starts.items(), strict=True):
            guarantee = guaranteed_threshold(
                values[drawn], right[drawn], candidates=candidates, max_error=max_error, delta=delta, start=start
            )
            if guarantee is not None:
                row[0] += 1
                row[1] += error_rates[np.searchsorted(candidates, guarantee.threshold)] > max_error
            passes = np.flatnonzero(drawn_rates <= max_error)
            row[2] += len(passes) > 0 and error_rates[passes[-1]] > max_error
    return [
        {
            "max_error": max_error,
            "n_draws": n_draws,
            **dict(zip(("found", "broken", "naive_broken"), (row / n_draws).tolist(), strict=True)),
        }
        for max_error, row in zip(ERROR_RATES, counts, strict=True)
    ]


def _candidates(val: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return thresholds that are chosen without the calibration questions, as the test requires, ascending."""
    candidates = np.quantile(val, np.linspace(0.01, 1, _N_CANDIDATES)).astype(np.float32)
    # as the sidecar stores them; rounding must not make a threshold larger
    return np.unique(np.nextafter(candidates, np.float32(0))).astype(np.float64)


def _starts(
    val: NDArray[np.float64], val_correct: NDArray[np.bool_], candidates: NDArray[np.float64]
) -> dict[float, float]:
    """Return for each error rate the threshold at which its tests begin."""
    return {
        max_error: most_evident_threshold(val, val_correct, candidates=candidates, max_error=max_error)
        for max_error in ERROR_RATES
    }


def _error_rates(
    values: NDArray[np.float64], right: NDArray[np.bool_], thresholds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the error rate at each threshold; 0 where no answer is kept."""
    order = np.argsort(values, kind="stable")
    n_kept = np.searchsorted(values[order], thresholds, side="right")
    n_wrong = np.concatenate([[0], np.cumsum(~right[order])])[n_kept]
    return np.asarray(n_wrong / np.maximum(n_kept, 1), dtype=np.float64)


def with_guarantees(
    config: VerdictConfig, guarantees: Sequence[Guarantee], *, delta: float, questions: str, base_sha256: str
) -> VerdictConfig:
    """Return the head's settings with these guarantees. They replace its own."""
    return replace(
        config,
        guarantees=tuple(
            ErrorGuarantee(guarantee.max_error, guarantee.threshold, guarantee.coverage) for guarantee in guarantees
        ),
        delta=delta,
        n_calibration=guarantees[0].n if guarantees else 0,
        questions=questions,
        base_sha256=base_sha256,
    )


def kept_on(guarantee: Guarantee, p_wrong: NDArray[np.float64], correct: NDArray[np.bool_]) -> dict[str, Any]:
    """Return coverage and error rate of a threshold on other answers, ready for JSON; None without a kept answer."""
    kept = p_wrong <= guarantee.threshold
    return {"coverage": float(kept.mean()), "error_rate": float((~correct[kept]).mean()) if kept.any() else None}
