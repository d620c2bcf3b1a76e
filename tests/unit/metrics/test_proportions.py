"""Metrics that are proportions of questions, on one case worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import f1_score, precision_score, recall_score

from metadeploy import metrics
from metadeploy.errors import Error
from metadeploy.metrics import Share
from metadeploy.proportion import wilson_interval

#   question                 0  1  2  3  4  5  6  7  8  9
BASE = np.array(list(map(int, "1111000000")), dtype=bool)
ANSWERED = np.array(list(map(int, "1110100001")), dtype=bool)
CORRECT = np.array(list(map(int, "1100100000")), dtype=bool)
SAME = np.array(list(map(int, "1001000011")), dtype=bool)

questions = st.lists(st.tuples(*[st.booleans()] * 4), max_size=40)

Row = tuple[bool, bool, bool, bool]


def columns(rows: list[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the columns. Equal texts have equal labels; a declined question may have any."""
    base, answered, correct, same = np.array(rows, dtype=bool).reshape(-1, 4).T
    return base, answered, answered & np.where(same, base, correct), same


def test_by_hand() -> None:
    assert metrics.base_accuracy(BASE) == Share(4, 10)
    assert metrics.coverage(ANSWERED) == Share(5, 10)  # 0 1 2 4 9
    assert metrics.selective_accuracy(ANSWERED, CORRECT) == Share(3, 5)  # 0 1 4
    assert metrics.refusal_rate(ANSWERED) == Share(5, 10)  # 3 5 6 7 8
    assert metrics.refusal_precision(BASE, ANSWERED) == Share(4, 5)  # all except 3
    assert metrics.smart_refusal_rate(BASE, ANSWERED) == Share(4, 6)  # 5 6 7 8 of 4 … 9
    assert metrics.over_refusal_rate(BASE, ANSWERED) == Share(1, 4)  # 3 of 0 … 3
    assert metrics.kept_rate(BASE, ANSWERED, CORRECT) == Share(2, 3)  # 0 1 of 0 1 2
    assert metrics.same_words_rate(BASE, ANSWERED, SAME) == Share(1, 3)  # 0 of 0 1 2; 3 is declined, 9 was wrong before


def test_corrections_by_hand() -> None:
    result = metrics.corrections(BASE, ANSWERED, CORRECT)
    assert result == metrics.Corrections(corrected=Share(1, 6), broken=Share(1, 4))  # 4 of 4 … 9; 2 of 0 … 3
    assert result.net == 0
    assert metrics.corrections(BASE, ANSWERED, ANSWERED).net == 2  # 4 and 9, and nothing broken


def test_abstention_by_hand() -> None:
    result = metrics.abstention(BASE, ANSWERED)
    assert (result.precision, result.recall) == (Share(4, 5), Share(4, 6))
    assert result.f1 == pytest.approx(2 * 4 / (5 + 6))


@given(questions)
def test_abstention_matches_scikit_learn(rows: list[Row]) -> None:
    base, answered, *_ = columns(rows)
    result = metrics.abstention(base, answered)
    if result.precision.total:
        assert result.precision.value == pytest.approx(precision_score(~base, ~answered, zero_division=0))
    if result.recall.total:
        assert result.recall.value == pytest.approx(recall_score(~base, ~answered, zero_division=0))
    if result.f1 is None:
        assert base.all() and answered.all()
    else:
        assert result.f1 == pytest.approx(f1_score(~base, ~answered, zero_division=0))


@given(questions)
def test_proportions_are_consistent(rows: list[Row]) -> None:
    base, answered, correct, same = columns(rows)
    proportions = metrics.shares(base, answered, correct, same)
    for share in proportions.values():
        assert 0 <= share.hits <= share.total <= len(rows)
        assert (share.value is None) == (share.total == 0) == (share.interval is None)
    assert proportions["coverage"].hits + proportions["refusal_rate"].hits == len(rows)
    assert (
        proportions["smart_refusal_rate"].hits + proportions["over_refusal_rate"].hits
        == proportions["refusal_rate"].hits
    )
    # an answered question that is right was right before or has been corrected
    assert proportions["selective_accuracy"].hits == proportions["kept_rate"].hits + proportions["corrected_rate"].hits
    assert proportions["kept_rate"].total - proportions["kept_rate"].hits == proportions["broken_rate"].hits
    # an unchanged text is still right
    assert proportions["same_words_rate"].total == proportions["kept_rate"].total
    assert proportions["same_words_rate"].hits <= proportions["kept_rate"].hits
    assert metrics.same_words_rate(base, answered, same | ~answered) == proportions["same_words_rate"]


def test_declining_everything_does_not_win() -> None:
    nothing = np.zeros(10, dtype=bool)
    assert metrics.selective_accuracy(nothing, nothing).value is None
    assert metrics.over_refusal_rate(BASE, nothing).value == 1
    assert metrics.refusal_precision(BASE, nothing).value == 0.6


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_matches_scipy(case: tuple[int, int]) -> None:
    hits, total = case
    theirs = binomtest(hits, total).proportion_ci(method="wilson")
    assert wilson_interval(hits, total) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@pytest.mark.parametrize(
    ("answered", "message"),
    [
        ([True, False], r"'correct': 3 entries, expected 2 like 'answered' \(one for each question\)"),
        ([1, 0, 1], "'answered': elements are int64, expected bool"),
        ([[True], [False], [True]], r"'answered': shape \[3, 1\], expected one dimension"),
        ([[True], [], [True]], r"'answered': .*inhomogeneous.*, expected one entry for each question"),
    ],
)
def test_malformed_input_is_an_error(answered: list[object], message: str) -> None:
    with pytest.raises(Error, match=message) as caught:
        metrics.selective_accuracy(answered, [True, False, True])
    assert isinstance(caught.value, ValueError)
