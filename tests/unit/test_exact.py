"""Proportions of counts, for which binary floats would be off by one, and the display of proportions."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest

from metadeploy._exact import at_least, at_most, nearest, percent


def test_binary_floats_are_off_by_one() -> None:
    """The reason for this module. Without this behavior of floats, it would not be needed."""
    assert math.floor(0.29 * 100) == 28
    assert math.ceil(0.1 * 30) == 3 and math.ceil(0.7 * 30 / 3 * 10) == 70 and math.ceil(0.07 * 100) == 8
    assert f"{0.285:.0%}" == "28%" and f"{0.145:.0%}" == "14%"


@pytest.mark.parametrize(
    ("share", "n", "most", "least"),
    [
        (0.29, 100, 29, 29),
        (0.07, 100, 7, 7),
        (0.55, 100, 55, 55),
        (0.35, 20, 7, 7),
        (0.1, 30, 3, 3),
        (0.35, 21, 7, 8),
        (1 / 3, 9, 2, 3),  # the float is slightly less than a third
        (0.0, 7, 0, 0),
        (1.0, 7, 7, 7),
        (1e-9, 7, 0, 1),
        (np.float64(0.29), 100, 29, 29),
    ],
)
def test_parts(share: float, n: int, most: int, least: int) -> None:
    assert (at_most(share, n), at_least(share, n)) == (most, least)


def test_every_hundredth_of_every_small_count() -> None:
    for hundredths in range(101):
        for n in range(201):
            exact = Decimal(hundredths) * n / 100
            assert at_most(hundredths / 100, n) == math.floor(exact)
            assert at_least(hundredths / 100, n) == math.ceil(exact)
            assert nearest(hundredths / 100, n) == int(exact.quantize(Decimal(1), ROUND_HALF_UP))


@pytest.mark.parametrize(
    ("share", "digits", "expected"),
    [
        (0.285, 0, "29"),
        (0.145, 0, "15"),
        (0.5815, 1, "58.2"),
        (0.58149, 1, "58.1"),
        (0.0, 1, "0.0"),
        (1.0, 1, "100.0"),
        (1.0, 0, "100"),
        (0.9996, 1, "> 99.9"),
        (0.9994, 1, "99.9"),
        (0.996, 0, "> 99"),
        (0.0004, 1, "< 0.1"),
        (0.0005, 1, "0.1"),
        (0.004, 0, "< 1"),
        (-0.0004, 1, "0.0"),
        (-0.125, 1, "-12.5"),
        (1.5, 0, "150"),
        (np.float64(0.25), 1, "25.0"),
        (math.nan, 1, "nan"),
    ],
)
def test_percent(share: float, digits: int, expected: str) -> None:
    assert percent(share, digits) == expected
