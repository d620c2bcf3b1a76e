"""Tests and intervals: McNemar, bootstrap, matched coverage, difference of AUROCs, mean over seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from metadeploy import metrics
from metadeploy.errors import Error
from metadeploy.metrics import Share
from metadeploy.metrics._intervals import clusters


def pairs(both: int, only_first: int, only_second: int, neither: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    counts = both, only_first, only_second, neither
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def test_mcnemar_by_hand() -> None:
    result = metrics.mcnemar(*pairs(50, 2, 8, 40))
    assert (result.only_first, result.only_second) == (2, 8)
    # at most 2 of 10 coin tosses, two-sided; statsmodels' mcnemar(exact=True) gives the same
    assert result.p_value == pytest.approx(2 * (1 + 10 + 45) / 2**10)  # 0.109375
    assert metrics.mcnemar(*pairs(1, 14, 24, 1)).p_value == pytest.approx(0.14330665429588407)  # statsmodels
    assert metrics.mcnemar(*pairs(0, 6, 0, 0)).p_value == pytest.approx(2 / 2**6)


@given(st.tuples(*[st.integers(0, 30)] * 4))
def test_mcnemar_is_symmetric_and_ignores_agreement(counts: tuple[int, int, int, int]) -> None:
    both, one, other, neither = counts
    first, second = pairs(both, one, other, neither)
    result = metrics.mcnemar(first, second)
    assert result.p_value == metrics.mcnemar(second, first).p_value == metrics.mcnemar(*pairs(0, one, other, 0)).p_value
    assert 0 < result.p_value <= 1
    if one == other:
        assert result.p_value == pytest.approx(1)


def test_bootstrap_interval_of_a_mean() -> None:
    values = np.random.default_rng(1).random(1000) < 0.3
    interval = metrics.bootstrap_interval(lambda at: float(values[at].mean()), 1000, n_resamples=4000)
    spread = 1.96 * values.std() / np.sqrt(1000)  # the normal approximation, good at this n
    assert interval == pytest.approx((values.mean() - spread, values.mean() + spread), abs=0.003)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=2).confidence_interval
    assert interval == pytest.approx(tuple(theirs), abs=0.003)


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


entities = st.lists(st.sampled_from(["", "a", "b", "c", "longer"]), min_size=1, max_size=30)


def draws(n: int, entity: Any, *, n_resamples: int = 20, seed: int = 3) -> list[NDArray[np.intp]]:
    """Return the questions of each bootstrap draw."""
    seen: list[NDArray[np.intp]] = []

    def look(at: NDArray[np.intp]) -> float:
        seen.append(at)
        return 0.0

    metrics.bootstrap_interval(look, n, entity=entity, n_resamples=n_resamples, seed=seed)
    return seen


def test_clusters_by_hand() -> None:
    assert clusters(6, ["b", "", "a", "b", "", "a"]).tolist() == [0, 1, 2, 0, 3, 2]
    assert clusters(4, [7, 7, 0, 7]).tolist() == [0, 0, 1, 0]
    assert clusters(3).tolist() == clusters(3, ["", "", ""]).tolist() == [0, 1, 2]
    assert clusters(0, []).tolist() == []


@given(entities)
def test_a_draw_has_an_entity_with_all_of_its_questions(entity: list[str]) -> None:
    about = clusters(len(entity), entity)
    for at in draws(len(entity), entity):
        times = np.bincount(at, minlength=len(entity))
        for name in set(about.tolist()):
            assert len(set(times[about == name].tolist())) == 1, "all of its questions, each equally often"
        firsts = [about.tolist().index(name) for name in set(about.tolist())]
        assert times[firsts].sum() == len(firsts), "a draw has the original number of entities"


@given(st.integers(1, 30))
def test_questions_that_stand_for_themselves_are_drawn_one_by_one(n: int) -> None:
    rng = np.random.default_rng(3)
    expected = [rng.integers(n, size=n) for _ in range(20)]
    for entity in (None, [""] * n, [f"x{index}" for index in reversed(range(n))], np.arange(n)):
        np.testing.assert_array_equal(draws(n, entity), expected)


def test_repeated_values_do_not_narrow_the_interval() -> None:
    """Each value occurs m times. As one entity, the interval does not change; as m questions it is √m narrower."""
    values = np.random.default_rng(1).random(200)
    (one, clustered, independent) = (
        metrics.bootstrap_interval(lambda at, of=of: float(of[at].mean()), len(of), entity=entity)
        for of, entity in (
            (values, None),
            (values.repeat(4), np.arange(200).repeat(4)),
            (values.repeat(4), None),
        )
    )
    assert one is not None and clustered is not None and independent is not None
    assert clustered == pytest.approx(one)
    assert one.high - one.low == pytest.approx(2 * (independent.high - independent.low), rel=0.1)


def test_cluster_bootstrap_of_a_proportion_matches_scipy() -> None:
    """SciPy draws pairs of hits and sizes, one for each entity."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, 300)
    entity = np.arange(300).repeat(sizes)
    hits = rng.random(len(entity)) < rng.random(300).repeat(sizes)  # alike within an entity
    (interval,) = metrics.share_intervals(
        lambda at: [metrics.coverage(hits[at])], len(hits), entity=entity, n_resamples=4000
    )
    sums = np.bincount(entity, weights=hits)
    theirs = stats.bootstrap(
        (sums, sizes),
        lambda sums, sizes, axis: sums.sum(axis=axis) / sizes.sum(axis=axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert interval == pytest.approx(tuple(theirs), abs=0.004)
    wilson = metrics.coverage(hits).interval
    assert interval is not None and wilson is not None
    assert interval.high - interval.low > 1.3 * (wilson.high - wilson.low)


def test_a_proportion_of_one_or_zero_keeps_wilsons_interval() -> None:
    hits = np.zeros(40, dtype=bool)
    none, every, some, nothing = metrics.share_intervals(
        lambda at: [Share(0, len(at)), Share(len(at), len(at)), Share(int((at < 10).sum()), len(at)), Share(0, 0)],
        len(hits),
        entity=np.arange(40) // 2,
        n_resamples=200,
    )
    # forty questions about twenty entities
    assert none == Share(0, 20).interval
    assert every == Share(20, 20).interval
    assert some is not None and 0 < some.low < 0.25 < some.high < 0.6
    assert nothing is None
    assert metrics.share_intervals(lambda at: [Share(0, len(at))], 0) == [None]
    # of three entities, only the second has questions in the metric
    (few,) = metrics.share_intervals(
        lambda at: [Share(0, int((at // 2 == 1).sum()))], 6, entity=["a", "a", "b", "b", "", ""], n_resamples=20
    )
    assert few == Share(0, 1).interval


def test_malformed_entities_are_an_error() -> None:
    with pytest.raises(Error, match=r"'entity': 2 entries, expected 3 \(one for each question\)"):
        metrics.bootstrap_interval(lambda at: 0.0, 3, entity=["a", "b"])
    with pytest.raises(Error, match="'entity': elements are float64, expected text or whole numbers"):
        metrics.bootstrap_interval(lambda at: 0.0, 2, entity=[0.5, 1.5])


@pytest.mark.parametrize(("clustered", "least", "most"), [(True, 50, 60), (False, 0, 48)])
def test_intervals_cover_the_truth_with_clustered_questions(clustered: bool, least: int, most: int) -> None:
    """Each entity has eight questions, all right or all wrong at random: 57 of 60 intervals should contain 1/2."""
    held = 0
    entity = np.arange(50).repeat(8)
    for seed in range(60):
        right = (np.random.default_rng(seed).random(50) < 0.5).repeat(8)
        (interval,) = metrics.share_intervals(
            lambda at, right=right: [metrics.base_accuracy(right[at])],
            len(right),
            entity=entity if clustered else None,
            n_resamples=200,
        )
        assert interval is not None
        held += interval.low <= 0.5 <= interval.high
    assert least <= held <= most


def test_bootstrap_of_a_rarely_defined_metric_is_none() -> None:
    # without question 0: the probability is (3/4)⁴ = 0.32 for a draw of 4, and 1/4 for one of 2
    def needs_the_first(at: NDArray[np.intp]) -> float | None:
        return 1.0 if 0 in at else None

    assert metrics.bootstrap_interval(needs_the_first, 4, n_resamples=200) == (1, 1)
    assert metrics.bootstrap_interval(lambda at: 1.0 if (at == 0).all() else None, 4, n_resamples=200) is None
    assert metrics.bootstrap_interval(lambda at: 1.0, 0) is None
    with pytest.raises(Error, match="n_resamples is 0, expected at least 1"):
        metrics.bootstrap_interval(lambda at: 1.0, 4, n_resamples=0)


def test_intervals_have_their_nominal_coverage() -> None:
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
    result = metrics.matched_coverage(first, first_right, second, second_right, n_answered=3)
    assert (result.first, result.second) == (Share(2, 3), Share(2, 3))
    assert (result.test.only_first, result.test.only_second) == (2, 2)  # 0 1 against 3 4
    everything = metrics.matched_coverage(first, first_right, second, second_right, n_answered=6)
    assert (everything.test.only_first, everything.test.only_second) == (1, 1)  # 1 against 2
    nothing = metrics.matched_coverage(first, first_right, second, second_right, n_answered=0)
    assert (nothing.first.value, nothing.test.p_value) == (None, 1)


def test_matched_coverage_breaks_ties_by_the_same_lot_for_both() -> None:
    right = np.arange(200) % 3 == 0
    constant = np.zeros(200)
    for seed in range(5):
        result = metrics.matched_coverage(constant, right, constant, right, n_answered=60, seed=seed)
        assert result.first == result.second
        assert result.test.only_first == result.test.only_second == 0
    # at random, not by the order of the questions
    ordered = np.arange(200) < 60
    hits = [
        metrics.matched_coverage(constant, ordered, constant, ordered, n_answered=60, seed=seed).first.hits
        for seed in range(20)
    ]
    assert 15 < np.mean(hits) < 21  # 60 · 60/200 = 18, standard error 0.7
    # chance decides only between ties at the cut
    clear = np.where(right, 0.0, 1.0)
    assert metrics.matched_coverage(clear, right, clear, right, n_answered=60).first == Share(60, 60)


def test_a_better_score_wins_at_matched_coverage() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(1000) < 0.3
    good, poor = (~right + rng.normal(0, spread, 1000) for spread in (0.5, 3.0))
    result = metrics.matched_coverage(good, right, poor, right, n_answered=200)
    assert (result.first.value or 0) > (result.second.value or 0)
    assert result.test.p_value < 1e-6


@pytest.mark.parametrize("n_answered", [-1, 4])
def test_matched_coverage_out_of_range(n_answered: int) -> None:
    with pytest.raises(Error, match=f"n_answered is {n_answered}, expected 0 to 3, the questions"):
        metrics.matched_coverage([1, 2, 3], [True] * 3, [1, 2, 3], [True] * 3, n_answered=n_answered)


def test_auroc_difference() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(600) < 0.4
    good, fair = (~right + rng.normal(0, spread, 600) for spread in (0.6, 1.5))
    result = metrics.auroc_difference(good, fair, right, n_resamples=400)
    back = metrics.auroc_difference(fair, good, right, n_resamples=400)
    assert result is not None and back is not None
    assert result.interval is not None and back.interval is not None
    assert result.value == pytest.approx((metrics.auroc(good, right) or 0) - (metrics.auroc(fair, right) or 0))
    assert result.interval.low > 0
    assert result.p_value == pytest.approx(2 / 401)  # no draw beyond zero
    assert back.value == -result.value
    assert back.interval == pytest.approx((-result.interval.high, -result.interval.low))


def test_auroc_difference_without_questions() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(100) < 0.4
    doubt = rng.random(100)
    same = metrics.auroc_difference(doubt, 2 * doubt, right, n_resamples=50)
    assert same is not None
    assert (same.value, same.interval, same.p_value) == (0, (0, 0), 1)
    assert metrics.auroc_difference(doubt, doubt, np.ones(100, dtype=bool)) is None
    with pytest.raises(Error, match="'base_correct': 99 entries, expected 100 like 'first'"):
        metrics.auroc_difference(doubt, doubt, right[1:])


def test_auroc_difference_draws_whole_entities() -> None:
    """If each question occurs three times as one entity, the interval and p do not change."""
    rng = np.random.default_rng(0)
    right = rng.random(80) < 0.5
    one, other = (~right + rng.normal(0, spread, 80) for spread in (0.9, 1.2))
    once = metrics.auroc_difference(one, other, right, n_resamples=300)
    thrice = metrics.auroc_difference(
        one.repeat(3), other.repeat(3), right.repeat(3), entity=np.arange(80).repeat(3), n_resamples=300
    )
    alone = metrics.auroc_difference(one.repeat(3), other.repeat(3), right.repeat(3), n_resamples=300)
    assert once is not None and thrice is not None and alone is not None
    assert thrice.value == pytest.approx(once.value)
    assert thrice.interval == pytest.approx(once.interval)
    assert thrice.p_value == once.p_value
    assert once.p_value is not None and alone.p_value is not None
    assert alone.p_value < once.p_value


def test_paired_p_values_are_uniform_without_a_difference() -> None:
    """For two equally good scores, small p values occur as often as they should."""
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(60):
        right = rng.random(120) < 0.5
        one, other = (~right + rng.normal(0, 1, 120) for _ in range(2))
        difference = metrics.auroc_difference(one, other, right, n_resamples=100)
        assert difference is not None
        p_values.append(difference.p_value)
    assert sum(p < 0.1 for p in p_values if p is not None) <= 15  # 6 expected
    assert sum(p > 0.5 for p in p_values if p is not None) >= 15  # 30 expected


def test_seed_mean_by_hand() -> None:
    result = metrics.seed_mean([0.80, 0.84, 0.82])
    assert result is not None and result.interval is not None
    # s = 0.02, and t(0.975; 2) = 4.302653 from the tables
    spread = 4.302653 * 0.02 / np.sqrt(3)
    assert (result.mean, result.n) == (pytest.approx(0.82), 3)
    assert result.interval == pytest.approx((0.82 - spread, 0.82 + spread), abs=1e-7)
    theirs = stats.ttest_1samp([0.80, 0.84, 0.82], 0).confidence_interval()
    assert result.interval == pytest.approx((theirs.low, theirs.high))


def test_seed_mean_of_few() -> None:
    assert metrics.seed_mean([]) is None
    assert metrics.seed_mean([0.5]) == metrics.SeedMean(0.5, None, 1)
    assert metrics.seed_mean([0.5, 0.5]) == metrics.SeedMean(0.5, metrics.Interval(0.5, 0.5), 2)
    with pytest.raises(Error, match="'values': nan at index 1, expected a finite number"):
        metrics.seed_mean([0.5, float("nan")])


def test_auroc_difference_within_kinds() -> None:
    """A score that only knows the kind is ahead over all questions, and not within kinds."""
    rng = np.random.default_rng(0)
    kind = rng.integers(2, size=800)
    right = rng.random(800) < np.where(kind == 0, 0.2, 0.8)
    within = ~right + rng.normal(0, 1.5, 800)
    by_kind = (kind == 0) + rng.normal(0, 1e-3, 800)
    overall = metrics.auroc_difference(by_kind, within, right, n_resamples=100)
    inside = metrics.auroc_difference(by_kind, within, right, category=kind, n_resamples=100)
    assert overall is not None and overall.interval is not None and overall.interval.low > 0
    assert inside is not None and inside.interval is not None and inside.interval.high < 0
    expected = [metrics.macro_auroc(score, right, kind) or 0.0 for score in (by_kind, within)]
    assert inside.value == pytest.approx(expected[0] - expected[1])
    with pytest.raises(Error, match="'category': 799 entries, expected 800"):
        metrics.auroc_difference(by_kind, within, right, category=kind[1:])


def test_holm_by_hand() -> None:
    assert metrics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert metrics.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert metrics.holm([]) == []
    with pytest.raises(Error, match="not in"):
        metrics.holm([0.5, 1.5])
