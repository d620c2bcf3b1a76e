"""Looks for thresholds of a verdict whose error rate is guaranteed, and notes them in a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from metadeploy.metrics import Guarantee, guaranteed_threshold, one_per_entity
from metadeploy.sidecar.verdict import ErrorGuarantee, VerdictConfig

__all__ = ["ERROR_RATES", "find_guarantees", "kept_on", "with_guarantees"]

#: Error rates for which a guarantee is looked for.
ERROR_RATES: Final = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
#: Thresholds that may get a guarantee: quantiles of ``p_wrong`` on the validation questions.
_N_CANDIDATES: Final = 100


def find_guarantees(
    val: NDArray[np.float64],
    calibration: NDArray[np.float64],
    correct: NDArray[np.bool_],
    entity: NDArray[np.str_],
    *,
    delta: float,
    seed: int,
) -> list[Guarantee]:
    """Return a guarantee for each error rate that has one.

    Args:
        val: ``p_wrong`` of the validation answers, float64 [m], which choose the candidates.
        calibration: ``p_wrong`` of the calibration answers, float64 [n].
        correct: bool [n], whether the calibration answers are right.
        entity: text [n], the entities of the calibration questions. One question of each is used.
        delta: probability that a guarantee may fail.
        seed: seed that chooses the question of each entity.
    """
    # chosen without the calibration questions, as the test requires
    candidates = np.quantile(val, np.linspace(0.01, 1, _N_CANDIDATES))
    # as the sidecar stores them; rounding must not make a threshold larger
    candidates = np.nextafter(candidates.astype(np.float32), np.float32(0))
    chosen = one_per_entity(entity, seed=seed)
    found = (
        guaranteed_threshold(
            calibration[chosen], correct[chosen], candidates=candidates, max_error=max_error, delta=delta
        )
        for max_error in ERROR_RATES
    )
    return [guarantee for guarantee in found if guarantee is not None]


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
