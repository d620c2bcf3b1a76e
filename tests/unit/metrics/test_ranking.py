"""Metrics of the ranking by doubt: risk and coverage, AUROC, and within categories."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from metadeploy import metrics
from metadeploy.errors import Error

#: Least doubted first: right; one right and one wrong, tied; wrong.
DOUBT = np.array([0.1, 0.2, 0.2, 0.9])
CORRECT = np.array([True, False, True, False])

#: Few levels, so that ties are common.
scored = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=30)
tiny = st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=5)
in_categories = st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.sampled_from("abc")), min_size=1, max_size=40)

RANKINGS: list[Callable[[np.ndarray, np.ndarray], float | None]] = [
    metrics.aurc,
    metrics.e_aurc,
    metrics.prr,
    metrics.auroc,
    metrics.auprc,
    lambda doubt, correct: metrics.selective_accuracy_at(doubt, correct, coverage=0.37),
]


def split(rows: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([level for level, _ in rows]) / 6, np.array([right for _, right in rows], dtype=bool)


def test_curve_by_hand() -> None:
    curve = metrics.risk_coverage(DOUBT, CORRECT)
    np.testing.assert_allclose(curve.coverage, [0.25, 0.5, 0.75, 1])
    # right among the first k: 1, 1 + a half, 2, 2
    np.testing.assert_allclose(curve.risk, [0, 1 - 1.5 / 2, 1 - 2 / 3, 1 - 2 / 4])
    np.testing.assert_allclose(curve.selective_accuracy, 1 - curve.risk)


def test_areas_by_hand() -> None:
    area = (0 + 1 / 4 + 1 / 3 + 1 / 2) / 4  # 13/48
    oracle = (0 + 0 + 1 / 3 + 1 / 2) / 4  # 10/48
    assert metrics.aurc(DOUBT, CORRECT) == pytest.approx(area)
    assert metrics.e_aurc(DOUBT, CORRECT) == pytest.approx(area - oracle)
    assert metrics.prr(DOUBT, CORRECT) == pytest.approx((1 / 2 - area) / (1 / 2 - oracle))  # 11/14


def test_auroc_and_auprc_by_hand() -> None:
    # errors at 0.2 and 0.9, right answers at 0.1 and 0.2: of four pairs three are won and one is a tie
    assert metrics.auroc(DOUBT, CORRECT) == pytest.approx(3.5 / 4)
    # threshold 0.9: recall 1/2 at precision 1; threshold 0.2: recall 1 at precision 2/3
    assert metrics.auprc(DOUBT, CORRECT) == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)


@pytest.mark.parametrize(
    ("coverage", "expected"),
    [
        (0.25, 1 / 1),
        (0.375, (1 + 0.5 * 0.5) / 1.5),  # half of the second question, itself half right
        (0.5, 1.5 / 2),
        (1.0, 2 / 4),
        (0.1, 0.4 / 0.4),  # a part of the first question
    ],
)
def test_selective_accuracy_at_by_hand(coverage: float, expected: float) -> None:
    assert metrics.selective_accuracy_at(DOUBT, CORRECT, coverage=coverage) == pytest.approx(expected)


@given(tiny)
def test_ties_are_the_mean_over_all_orders(rows: list[tuple[int, bool]]) -> None:
    doubt, correct = split(rows)
    n = len(rows)
    risks = [
        [1 - correct[list(order[:k])].mean() for k in range(1, n + 1)]
        for order in permutations(range(n))
        if all(doubt[a] <= doubt[b] for a, b in pairwise(order))
    ]
    np.testing.assert_allclose(metrics.risk_coverage(doubt, correct).risk, np.mean(risks, axis=0), atol=1e-12)


@given(scored, st.randoms(use_true_random=False))
def test_neither_the_order_of_questions_nor_the_scale_of_doubt_matters(rows, random) -> None:
    doubt, correct = split(rows)
    order = random.sample(range(len(rows)), len(rows))
    for metric in RANKINGS:
        value = metric(doubt, correct)
        assert metric(doubt[order], correct[order]) == pytest.approx(value, nan_ok=False)
        assert metric(np.exp(5 * doubt) - 70, correct) == pytest.approx(value, nan_ok=False)


@given(scored)
def test_ranges_and_best_and_worst(rows: list[tuple[int, bool]]) -> None:
    doubt, correct = split(rows)
    areas = [metrics.aurc(score, correct) for score in (~correct, doubt, correct)]
    assert all(area is not None and -1e-12 <= area <= 1 for area in areas)
    best, area, worst = (area or 0.0 for area in areas)
    assert best - 1e-12 <= area <= worst + 1e-12
    assert 0 <= (metrics.e_aurc(doubt, correct) or 0.0) <= 1
    assert metrics.e_aurc(~correct, correct) == 0
    both = correct.any() and not correct.all()
    for metric in (metrics.auroc, metrics.auprc, metrics.prr):
        value = metric(doubt, correct)
        assert (value is not None) == both
        if value is not None:
            assert value <= 1 + 1e-12
            assert metric(~correct, correct) == pytest.approx(1)
    if both:
        assert metrics.auroc(correct, correct) == 0
        assert metrics.auroc(np.ones(len(rows)), correct) == 0.5
        assert metrics.prr(np.ones(len(rows)), correct) == pytest.approx(0, abs=1e-12)
        assert (metrics.auroc(doubt, correct) or 0) + (metrics.auroc(-doubt, correct) or 0) == pytest.approx(1)


@given(scored)
def test_auroc_and_auprc_match_scikit_learn(rows: list[tuple[int, bool]]) -> None:
    doubt, correct = split(rows)
    if correct.any() and not correct.all():
        assert metrics.auroc(doubt, correct) == pytest.approx(roc_auc_score(~correct, doubt))
        assert metrics.auprc(doubt, correct) == pytest.approx(average_precision_score(~correct, doubt))


@given(scored, st.floats(0.01, 1))
def test_selective_accuracy_at_lies_on_the_curve(rows: list[tuple[int, bool]], coverage: float) -> None:
    doubt, correct = split(rows)
    accuracy = metrics.selective_accuracy_at(doubt, correct, coverage=coverage)
    assert accuracy is not None
    assert -1e-12 <= accuracy <= 1 + 1e-12
    assert metrics.selective_accuracy_at(doubt, correct, coverage=1) == pytest.approx(correct.mean())
    curve = metrics.risk_coverage(doubt, correct)
    for at, expected in zip(curve.coverage, curve.selective_accuracy, strict=True):
        assert metrics.selective_accuracy_at(doubt, correct, coverage=at) == pytest.approx(expected)


# a: errors at 0.6 and 0.4, a right answer at 0.5: 1 pair of 2 won
# b: an error at 0.9, right answers at 0.1, 0.2, 0.9: 2 pairs and a tie of 3
WITHIN = (
    np.array([0.6, 0.9, 0.4, 0.1, 0.5, 0.2, 0.9]),
    np.array([False, False, False, True, True, True, True]),
    list("abababb"),
)


def test_within_categories_by_hand() -> None:
    assert metrics.macro_auroc(*WITHIN, min_each=1) == pytest.approx((1 / 2 + 2.5 / 3) / 2)
    assert metrics.pooled_auroc(*WITHIN) == pytest.approx((1 + 2.5) / (2 + 3))
    assert metrics.macro_auroc(*WITHIN, min_each=2) is None  # a has one right answer, b one error
    assert metrics.macro_auroc(*WITHIN) is None


def test_knowing_the_category_alone_is_no_information_within() -> None:
    category = np.repeat([0, 1, 2, 3], 10)
    correct = np.concatenate([np.arange(10) < right for right in (9, 7, 3, 1)])
    doubt = np.repeat([0.1, 0.3, 0.7, 0.9], 10)
    assert (metrics.auroc(doubt, correct) or 0) > 0.8
    assert metrics.macro_auroc(doubt, correct, category, min_each=1) == 0.5
    assert metrics.pooled_auroc(doubt, correct, category) == 0.5


@given(in_categories, st.integers(1, 3))
def test_within_categories_matches_scikit_learn(rows: list[tuple[int, bool, str]], min_each: int) -> None:
    doubt, correct = split([(level, right) for level, right, _ in rows])
    category = np.array([name for _, _, name in rows])
    areas, weights = [], []
    for name in "abc":
        wrong, right = (~correct[category == name]).sum(), correct[category == name].sum()
        if wrong and right:
            areas.append((min(wrong, right), roc_auc_score(~correct[category == name], doubt[category == name])))
            weights.append(wrong * right)
    counted = [area for fewer, area in areas if fewer >= min_each]
    expected = np.mean(counted) if counted else None
    assert metrics.macro_auroc(doubt, correct, category, min_each=min_each) == pytest.approx(expected)
    pooled = np.average([area for _, area in areas], weights=weights) if areas else None
    assert metrics.pooled_auroc(doubt, correct, category) == pytest.approx(pooled)


@given(scored)
def test_one_category_is_the_whole(rows: list[tuple[int, bool]]) -> None:
    doubt, correct = split(rows)
    whole = metrics.auroc(doubt, correct)
    assert metrics.pooled_auroc(doubt, correct, ["x"] * len(rows)) == pytest.approx(whole)
    assert metrics.macro_auroc(doubt, correct, ["x"] * len(rows), min_each=1) == pytest.approx(whole)


def test_no_questions_have_no_value() -> None:
    assert [metric(np.empty(0), np.empty(0, dtype=bool)) for metric in RANKINGS] == [None] * len(RANKINGS)
    assert metrics.macro_auroc([], [], []) is None
    assert metrics.pooled_auroc([], [], []) is None
    assert len(metrics.risk_coverage([], []).risk) == 0


@pytest.mark.parametrize(
    ("doubt", "message"),
    [
        ([0.1, float("nan"), 0.3, 0.4], "'doubt': nan at index 1, expected a finite number"),
        ([0.1, 0.2, float("inf"), 0.4], "'doubt': inf at index 2, expected a finite number"),
        ([0.1, 0.2, None, 0.4], "'doubt': nan at index 2"),
        (["a", "b", "c", "d"], "'doubt': elements are <U1, expected numbers"),
        ([0.1, 0.2], "'correct': 4 entries, expected 2 like 'doubt'"),
    ],
)
def test_malformed_doubt_is_an_error(doubt: list[object], message: str) -> None:
    for metric in RANKINGS:
        with pytest.raises(Error, match=message):
            metric(doubt, CORRECT)


@pytest.mark.parametrize(
    ("category", "message"),
    [
        ([0.5, 1.0, 2.0, 3.0], "'category': elements are float64, expected text or whole numbers"),
        (["a", None, "b", "c"], "'category': elements are object"),
        (["a", "b"], "'category': 2 entries, expected 4 like 'doubt'"),
    ],
)
def test_malformed_categories_are_an_error(category: list[object], message: str) -> None:
    for metric in (metrics.macro_auroc, metrics.pooled_auroc):
        with pytest.raises(Error, match=message):
            metric(DOUBT, CORRECT, category)


def test_arguments_out_of_range_are_errors() -> None:
    for coverage in (0.0, 1.01, float("nan")):
        with pytest.raises(Error, match=r"coverage is .*, expected above 0 and at most 1"):
            metrics.selective_accuracy_at(DOUBT, CORRECT, coverage=coverage)
    with pytest.raises(Error, match="min_each is 0, expected at least 1"):
        metrics.macro_auroc(*WITHIN, min_each=0)
