from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from metadeploy.verdict.guarantees import ERROR_RATES, find_guarantees, kept_on, simulate_guarantees

Answers = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.str_]]


def answers(n: int, seed: int) -> Answers:
    """Return calibrated verdicts, whether the answers are right, and entities of two questions each."""
    rng = np.random.default_rng(seed)
    p_wrong = rng.beta(1.0, 1.0, n)
    return p_wrong, rng.random(n) >= p_wrong, np.array([f"entity {number // 2}" for number in range(n)])


def test_a_guarantee_holds_on_other_answers() -> None:
    found = find_guarantees(*answers(2000, 0)[:2], *answers(6000, 1), delta=0.1, seed=0)
    assert [guarantee.max_error for guarantee in found] == list(ERROR_RATES)
    others = answers(200_000, 2)[:2]
    for guarantee in found:
        kept = kept_on(guarantee, *others)
        # verdicts are uniform, so the errors of the kept ones are half the threshold
        assert kept["error_rate"] == pytest.approx(guarantee.threshold / 2, abs=0.005)
        assert kept["error_rate"] <= guarantee.max_error
        assert kept["coverage"] == pytest.approx(guarantee.threshold, abs=0.005)
        assert guarantee.n == 3000  # one question for each entity
    coverages = [guarantee.coverage for guarantee in found]
    assert coverages == sorted(coverages)


def test_nothing_is_kept() -> None:
    (guarantee, *_) = find_guarantees(*answers(100, 0)[:2], *answers(6000, 1), delta=0.1, seed=0)
    assert kept_on(guarantee, np.ones(5), np.ones(5, dtype=bool)) == {"coverage": 0.0, "error_rate": None}


def test_simulation() -> None:
    """A guarantee breaks at most as often as it says; a naive threshold breaks about every second time."""
    val = answers(2000, 0)[:2]
    rows = simulate_guarantees(*val, *answers(4000, 1), delta=0.1, seed=0, n_draws=100)
    assert [row["max_error"] for row in rows] == list(ERROR_RATES)
    for row in rows:
        assert row["broken"] <= 0.15  # 0.1, and two standard deviations of 100 draws
        if row["max_error"] >= 0.15:
            assert row["found"] == 1.0 and 0.25 < row["naive_broken"] < 0.75
    assert rows == simulate_guarantees(*val, *answers(4000, 1), delta=0.1, seed=0, n_draws=100)
