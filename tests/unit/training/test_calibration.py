"""The threshold between answering and declining, by hand and by properties."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metadeploy.errors import RunDirError
from metadeploy.training.calibration import calibrate
from metadeploy.training.settings import OperatingPoint

#: Few values, so that ties are common.
MARGINS = st.integers(-4, 4).map(lambda value: value / 2)
QUESTIONS = st.lists(st.tuples(MARGINS, st.booleans()), min_size=1, max_size=40)


def arrays(questions: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    margins, right = zip(*questions, strict=True)
    return np.array(margins, dtype=np.float64), np.array(right, dtype=bool)


def over_refusal(share: float) -> OperatingPoint:
    return OperatingPoint(max_over_refusal=share)


def coverage(share: float) -> OperatingPoint:
    return OperatingPoint(max_over_refusal=None, target_coverage=share)


def test_by_hand() -> None:
    margins = np.array([-3.0, -1.0, 0.0, 2.0, 5.0])
    right = np.array([True, True, False, True, False])
    # one of three right answers may be declined: the threshold lies above those at -3 and -1
    calibration = calibrate(margins, right, over_refusal(0.35))
    assert calibration.bias == 0.5
    assert (calibration.coverage, calibration.selective_accuracy, calibration.over_refusal) == (
        0.4,
        1.0,
        pytest.approx(1 / 3),
    )
    # three of five: the threshold lies between 0 and 2
    calibration = calibrate(margins, right, coverage(0.6))
    assert calibration.bias == -1.0
    assert (calibration.coverage, calibration.selective_accuracy) == (0.6, pytest.approx(2 / 3))


@pytest.mark.parametrize(("share", "n", "declined"), [(0.29, 100, 29), (0.57, 100, 57), (0.07, 200, 14), (0.35, 20, 7)])
def test_proportions_that_binary_floats_miss_by_one(share: float, n: int, declined: int) -> None:
    """0.29 · 100 is 28.999999999999996 in floats, but 29 of 100 may be declined."""
    calibration = calibrate(np.arange(n, dtype=np.float64), np.ones(n, dtype=bool), over_refusal(share))
    assert calibration.over_refusal == declined / n
    assert calibrate(np.arange(n, dtype=np.float64), np.ones(n, dtype=bool), coverage(share)).coverage == declined / n


def test_the_ends() -> None:
    margins, right = np.array([-1.0, 0.0, 1.0]), np.array([True, False, True])
    everything = calibrate(margins, right, over_refusal(0.0))
    assert (everything.coverage, everything.over_refusal) == (1.0, 0.0)
    nothing = calibrate(margins, right, over_refusal(1.0))
    assert (nothing.coverage, nothing.selective_accuracy, nothing.over_refusal) == (0.0, None, 1.0)
    assert calibrate(margins, right, coverage(1.0)).coverage == 1.0
    assert calibrate(margins, ~right & False, coverage(0.3)).over_refusal is None


@given(QUESTIONS, st.floats(0, 1))
def test_over_refusal_stays_within_its_limit(questions: list[tuple[float, bool]], share: float) -> None:
    margins, right = arrays(questions)
    if not right.any():
        with pytest.raises(RunDirError, match="the base has no right answer to a validation question"):
            calibrate(margins, right, over_refusal(share))
        return
    calibration = calibrate(margins, right, over_refusal(share))
    assert calibration.over_refusal is not None
    assert calibration.over_refusal <= share + 1e-12
    # and no lower threshold is allowed: one more step down declines too many
    below = margins[margins + calibration.bias < 0]
    if len(below):
        declined = (margins >= below.max())[right].mean()
        assert declined > share or not right[margins == below.max()].any()


@given(QUESTIONS, st.floats(0, 1))
def test_coverage_is_the_nearest_that_ties_allow(questions: list[tuple[float, bool]], share: float) -> None:
    margins, right = arrays(questions)
    n_answered = round(calibrate(margins, right, coverage(share)).coverage * len(margins))
    reachable = [int((margins < line).sum()) for line in (*np.unique(margins), math.inf)]
    wanted = math.floor(Fraction(repr(share)) * len(margins) + Fraction(1, 2))  # halves are rounded up
    assert n_answered in reachable
    assert abs(n_answered - wanted) == min(abs(count - wanted) for count in reachable)


@given(QUESTIONS, st.floats(0, 1))
def test_reported_values_match_the_bias(questions: list[tuple[float, bool]], share: float) -> None:
    margins, right = arrays(questions)
    calibration = calibrate(margins, right, coverage(share))
    answered = margins + calibration.bias < 0
    assert calibration.coverage == answered.mean()
    assert calibration.selective_accuracy == (right[answered].mean() if answered.any() else None)
    assert calibration.over_refusal == ((~answered)[right].mean() if right.any() else None)
    assert calibration.summary().keys() == {"coverage", "selective_accuracy", "over_refusal"}


def test_calibration_without_questions() -> None:
    with pytest.raises(RunDirError, match="there are no validation questions"):
        calibrate(np.zeros(0), np.zeros(0, dtype=bool), coverage(0.5))


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"max_over_refusal": 0.3, "target_coverage": 0.3}, "expected one of"),
        ({"max_over_refusal": None}, "expected one of"),
        ({"max_over_refusal": 1.5}, "--max-over-refusal is 1.5, expected 0 to 1"),
        ({"max_over_refusal": None, "target_coverage": math.nan}, "--target-coverage is nan"),
    ],
)
def test_invalid_operating_points(point: dict[str, float | None], message: str) -> None:
    with pytest.raises(RunDirError, match=message):
        OperatingPoint(**point)
