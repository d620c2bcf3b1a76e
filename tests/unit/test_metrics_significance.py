"""Tests and intervals: McNemar, bootstrap, matched coverage, difference of AUROCs, mean over seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from metadeploy.errors import Error
from metadeploy.evaluation import metrics
from metadeploy.evaluation.metrics import Share


def pairs(both: int, only_first: int, only_second: int, neither: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    counts = both, only_first, only_second, neither
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def test_mcnemar_by_hand() -> None:
    found = metrics.mcnemar(*pairs(50, 2, 8, 40))
    assert (found.only_first, found.only_second) == (2, 8)
    # at most 2 of 10 coins, on either side; statsmodels' mcnemar(exact=True) has the same
    assert found.p_value == pytest.approx(2 * (1 + 10 + 45) / 2**10)  # 0.109375
    assert metrics.mcnemar(*pairs(1, 14, 24, 1)).p_value == pytest.approx(0.14330665429588407)  # statsmodels
    assert metrics.mcnemar(*pairs(0, 6, 0, 0)).p_value == pytest.approx(2 / 2**6)


@given(st.tuples(*[st.integers(0, 30)] * 4))
def test_mcnemar_is_symmetric_and_ignores_what_agrees(counts: tuple[int, int, int, int]) -> None:
    both, one, other, neither = counts
    first, second = pairs(both, one, other, neither)
    found = metrics.mcnemar(first, second)
    assert found.p_value == metrics.mcnemar(second, first).p_value == metrics.mcnemar(*pairs(0, one, other, 0)).p_value
    assert 0 < found.p_value <= 1
    if one == other:
        assert found.p_value == pytest.approx(1)


def test_bootstrap_interval_of_a_mean() -> None:
    values = np.random.default_rng(1).random(1000) < 0.3
    found = metrics.bootstrap_interval(lambda at: float(values[at].mean()), 1000, n_resamples=4000)
    spread = 1.96 * values.std() / np.sqrt(1000)  # the normal approximation, good at this n
    assert found == pytest.approx((values.mean() - spread, values.mean() + spread), abs=0.003)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=2).confidence_interval
    assert found == pytest.approx(tuple(theirs), abs=0.003)


def test_bootstrap_draws_whole_questions_and_the_same_for_a_seed() -> None:
    values = np.random.default_rng(1).random(50)
    seen: list[NDArray[np.intp]] = []

    def difference(at: NDArray[np.intp]) -> float:
        seen.append(at)
        return float(np.mean(values[at] - values[at]))

    assert metrics.bootstrap_interval(difference, 50, n_resamples=20, seed=3) == (0, 0)
    first = list(seen)
    seen.clear()
    metrics.bootstrap_interval(difference, 50, n_resamples=20, seed=3)
    np.testing.assert_array_equal(first, seen)
    assert all(at.shape == (50,) and at.min() >= 0 and at.max() < 50 for at in seen)
    assert len({tuple(at) for at in seen}) == 20
    seen.clear()
    metrics.bootstrap_interval(difference, 50, n_resamples=20, seed=4)
    assert not np.array_equal(first, seen)


def test_bootstrap_of_what_is_hardly_defined_is_none() -> None:
    # without question 0, which a draw of 4 lacks with (3/4)⁴ = 0.32, or of 2 with 1/4
    def needs_the_first(at: NDArray[np.intp]) -> float | None:
        return 1.0 if 0 in at else None

    assert metrics.bootstrap_interval(needs_the_first, 4, n_resamples=200) == (1, 1)
    assert metrics.bootstrap_interval(lambda at: 1.0 if (at == 0).all() else None, 4, n_resamples=200) is None
    assert metrics.bootstrap_interval(lambda at: 1.0, 0) is None
    with pytest.raises(Error, match="n_resamples is 0, expected at least 1"):
        metrics.bootstrap_interval(lambda at: 1.0, 4, n_resamples=0)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """The AUROC of doubt uniform on [0, 1], where P(wrong) = doubt, is 5/6 in the limit."""
    held = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        questions = rng.random((300, 2))

        def statistic(at: NDArray[np.intp], questions: NDArray[np.float64] = questions) -> float | None:
            doubt, luck = questions[at].T
            return metrics.auroc(doubt, luck > doubt)

        interval = metrics.bootstrap_interval(statistic, 300, n_resamples=100)
        assert interval is not None
        held += interval.low <= 5 / 6 <= interval.high
    assert 33 <= held < 40  # 38 expected


def test_matched_coverage_by_hand() -> None:
    #                    0    1    2    3    4    5
    first = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])  # answers 0 1 2
    second = np.array([0.9, 0.2, 0.8, 0.1, 0.3, 0.7])  # answers 1 3 4
    first_right = np.array([True, True, False, True, True, True])
    second_right = np.array([True, False, True, True, True, True])
    found = metrics.matched_coverage(first, first_right, second, second_right, n_answered=3)
    assert (found.first, found.second) == (Share(2, 3), Share(2, 3))
    assert (found.test.only_first, found.test.only_second) == (2, 2)  # 0 1 against 3 4
    everything = metrics.matched_coverage(first, first_right, second, second_right, n_answered=6)
    assert (everything.test.only_first, everything.test.only_second) == (1, 1)  # 1 against 2
    nothing = metrics.matched_coverage(first, first_right, second, second_right, n_answered=0)
    assert (nothing.first.value, nothing.test.p_value) == (None, 1)


def test_matched_coverage_breaks_ties_by_the_same_lot_for_both() -> None:
    right = np.arange(200) % 3 == 0
    constant = np.zeros(200)
    for seed in range(5):
        found = metrics.matched_coverage(constant, right, constant, right, n_answered=60, seed=seed)
        assert found.first == found.second
        assert found.test.only_first == found.test.only_second == 0
    # by lot, and not by the order of the questions
    ordered = np.arange(200) < 60
    hits = [
        metrics.matched_coverage(constant, ordered, constant, ordered, n_answered=60, seed=seed).first.hits
        for seed in range(20)
    ]
    assert 15 < np.mean(hits) < 21  # 60 · 60/200 = 18, standard error 0.7
    # a lot decides only at the cut
    clear = np.where(right, 0.0, 1.0)
    assert metrics.matched_coverage(clear, right, clear, right, n_answered=60).first == Share(60, 60)


def test_a_better_score_wins_at_matched_coverage() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(1000) < 0.3
    good, poor = (~right + rng.normal(0, spread, 1000) for spread in (0.5, 3.0))
    found = metrics.matched_coverage(good, right, poor, right, n_answered=200)
    assert (found.first.value or 0) > (found.second.value or 0)
    assert found.test.p_value < 1e-6


@pytest.mark.parametrize("n_answered", [-1, 4])
def test_matched_coverage_out_of_range(n_answered: int) -> None:
    with pytest.raises(Error, match=f"n_answered is {n_answered}, expected 0 to 3, the questions"):
        metrics.matched_coverage([1, 2, 3], [True] * 3, [1, 2, 3], [True] * 3, n_answered=n_answered)


def test_auroc_difference() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(600) < 0.4
    good, fair = (~right + rng.normal(0, spread, 600) for spread in (0.6, 1.5))
    found = metrics.auroc_difference(good, fair, right, n_resamples=400)
    back = metrics.auroc_difference(fair, good, right, n_resamples=400)
    assert found is not None and back is not None
    assert found.interval is not None and back.interval is not None
    assert found.value == pytest.approx((metrics.auroc(good, right) or 0) - (metrics.auroc(fair, right) or 0))
    assert found.interval.low > 0
    assert found.p_value == pytest.approx(2 / 401)  # no draw on the other side
    assert back.value == -found.value
    assert back.interval == pytest.approx((-found.interval.high, -found.interval.low))


def test_auroc_difference_of_nothing() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(100) < 0.4
    doubt = rng.random(100)
    same = metrics.auroc_difference(doubt, 2 * doubt, right, n_resamples=50)
    assert same is not None
    assert (same.value, same.interval, same.p_value) == (0, (0, 0), 1)
    assert metrics.auroc_difference(doubt, doubt, np.ones(100, dtype=bool)) is None
    with pytest.raises(Error, match="'base_correct': 99 entries, expected 100 as 'first' has"):
        metrics.auroc_difference(doubt, doubt, right[1:])


def test_paired_p_values_are_uniform_where_there_is_no_difference() -> None:
    """Two scores equally good: small p values come about as often as they say."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        right = rng.random(120) < 0.5
        one, other = (~right + rng.normal(0, 1, 120) for _ in range(2))
        difference = metrics.auroc_difference(one, other, right, n_resamples=100)
        assert difference is not None
        found.append(difference.p_value)
    assert sum(p < 0.1 for p in found if p is not None) <= 15  # 6 expected
    assert sum(p > 0.5 for p in found if p is not None) >= 15  # 30 expected


def test_seed_mean_by_hand() -> None:
    found = metrics.seed_mean([0.80, 0.84, 0.82])
    assert found is not None and found.interval is not None
    # s = 0.02, and t(0.975; 2) = 4.302653 from the tables
    spread = 4.302653 * 0.02 / np.sqrt(3)
    assert (found.mean, found.n) == (pytest.approx(0.82), 3)
    assert found.interval == pytest.approx((0.82 - spread, 0.82 + spread), abs=1e-7)
    theirs = stats.ttest_1samp([0.80, 0.84, 0.82], 0).confidence_interval()
    assert found.interval == pytest.approx((theirs.low, theirs.high))


def test_seed_mean_of_few() -> None:
    assert metrics.seed_mean([]) is None
    assert metrics.seed_mean([0.5]) == metrics.SeedMean(0.5, None, 1)
    assert metrics.seed_mean([0.5, 0.5]) == metrics.SeedMean(0.5, metrics.Interval(0.5, 0.5), 2)
    with pytest.raises(Error, match="'values': nan at index 1, expected a finite number"):
        metrics.seed_mean([0.5, float("nan")])
