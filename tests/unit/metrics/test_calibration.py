"""ECE and Brier score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from metadeploy import metrics
from metadeploy.errors import Error

DOUBT = [0.05, 0.15, 0.15, 0.95]
CORRECT = [True, True, False, False]

probable = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


def test_ece_by_hand() -> None:
    # bins of 0.1: 0.05 against no error; twice 0.15 against one error of two; 0.95 against one of one
    gaps = 1 * abs(0.05 - 0), 2 * abs(0.15 - 1 / 2), 1 * abs(0.95 - 1)
    assert metrics.ece(DOUBT, CORRECT) == pytest.approx(sum(gaps) / 4)
    # two bins: three doubts of 0.35 in sum against one error; 0.95 against one
    assert metrics.ece(DOUBT, CORRECT, bins=2) == pytest.approx((abs(0.35 - 1) + abs(0.95 - 1)) / 4)
    # one bin: the mean doubt 0.325 against the error rate 0.5
    assert metrics.ece(DOUBT, CORRECT, bins=1) == pytest.approx(0.5 - 0.325)


def test_bins_hold_their_lower_edge_and_the_last_one_both() -> None:
    # 0.5 is in the upper of two bins with 1.0, so an error and a right answer cancel out; 0.49 is alone
    assert metrics.ece([0.5, 1.0], [False, True], bins=2) == pytest.approx(abs(1.5 - 1) / 2)
    assert metrics.ece([0.49, 1.0], [False, True], bins=2) == pytest.approx((abs(0.49 - 1) + abs(1 - 0)) / 2)


def test_brier_by_hand() -> None:
    assert metrics.brier(DOUBT, CORRECT) == pytest.approx((0.05**2 + 0.15**2 + 0.85**2 + 0.05**2) / 4)


@given(probable)
def test_brier_matches_scikit_learn(rows: list[tuple[float, bool]]) -> None:
    doubt = [value for value, _ in rows]
    wrong = [not right for _, right in rows]
    theirs = brier_score_loss(wrong, doubt, pos_label=True)
    assert metrics.brier(doubt, np.logical_not(wrong)) == pytest.approx(theirs)


@given(probable, st.integers(2, 20))
def test_ranges_and_extremes(rows: list[tuple[float, bool]], bins: int) -> None:
    doubt = np.array([value for value, _ in rows])
    correct = np.array([right for _, right in rows])
    error = metrics.ece(doubt, correct, bins=bins)
    assert error is not None
    assert 0 <= error <= 1 + 1e-12
    # splitting bins can only reveal more miscalibration
    assert error >= abs(doubt.mean() - (~correct).mean()) - 1e-9
    assert metrics.ece(~correct, correct, bins=bins) == metrics.brier(~correct, correct) == 0
    assert metrics.ece(correct, correct, bins=bins) == metrics.brier(correct, correct) == 1
    rate = np.full(len(rows), (~correct).mean())
    assert metrics.ece(rate, correct, bins=bins) == pytest.approx(0, abs=1e-9)
    assert metrics.brier(rate, correct) == pytest.approx(rate[0] * (1 - rate[0]))


def test_undefined_and_malformed() -> None:
    assert metrics.ece([], []) is None
    assert metrics.brier([], []) is None
    for metric in (metrics.ece, metrics.brier):
        with pytest.raises(Error, match=r"'doubt': 1.5 at index 1, expected a probability from 0 to 1"):
            metric([0.1, 1.5], [True, False])
        with pytest.raises(Error, match=r"'doubt': -0.5 at index 0"):
            metric([-0.5, 1.0], [True, False])
    with pytest.raises(Error, match="0 bins, expected at least 1"):
        metrics.ece(DOUBT, CORRECT, bins=0)


def test_noise_floor_is_the_error_of_perfect_probabilities() -> None:
    rng = np.random.default_rng(0)
    doubt = rng.random(1000)
    floor = metrics.ece_noise_floor(doubt)
    actual = np.mean([metrics.ece(doubt, rng.random(1000) >= doubt) for _ in range(100)])  # type: ignore[arg-type]
    assert floor == pytest.approx(actual, rel=0.1)
    more = metrics.ece_noise_floor(rng.random(16_000))
    assert floor is not None and more == pytest.approx(floor / 4, rel=0.15)  # it falls with the root of n
    assert metrics.ece_noise_floor([]) is None
    assert metrics.ece_noise_floor([0.0, 1.0]) == 0.0
    with pytest.raises(Error, match="n_draws is 0"):
        metrics.ece_noise_floor([0.5], n_draws=0)
