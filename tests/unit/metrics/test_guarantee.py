"""Thresholds with a guarantee, and Platt's calibration."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from metadeploy.metrics import (
    MetricInputError,
    PlattCalibration,
    ece,
    guaranteed_threshold,
    most_evident_threshold,
    one_per_entity,
    platt_calibration,
)

CANDIDATES = np.linspace(0.01, 1, 100)


def draw(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Questions whose score is the probability of an error."""
    rng = np.random.default_rng(seed)
    score = rng.uniform(size=n)
    return score, rng.uniform(size=n) >= score


def test_a_guarantee_is_rarely_broken() -> None:
    """The error rate up to a threshold t is t / 2, so a guarantee of 0.2 is broken by thresholds above 0.4."""
    found = [guaranteed_threshold(*draw(1000, seed), candidates=CANDIDATES, max_error=0.2) for seed in range(300)]
    broken = sum(guarantee is not None and guarantee.threshold > 0.4 + 1e-9 for guarantee in found)
    assert broken <= binom.ppf(0.999, 300, 0.1)
    kept = [guarantee.threshold for guarantee in found if guarantee is not None]
    assert len(kept) > 290 and np.median(kept) > 0.25  # and it is not bought by answering nothing


def test_the_fields_of_a_guarantee() -> None:
    score, correct = draw(2000, 1)
    guarantee = guaranteed_threshold(score, correct, candidates=CANDIDATES, max_error=0.25, delta=0.05)
    assert guarantee is not None
    assert guarantee.coverage == np.mean(score <= guarantee.threshold)
    assert (guarantee.max_error, guarantee.delta, guarantee.n) == (0.25, 0.05, 2000)
    assert guarantee.threshold in CANDIDATES


def test_a_lower_rate_or_delta_gives_a_lower_threshold() -> None:
    score, correct = draw(2000, 2)
    rates = [guaranteed_threshold(score, correct, candidates=CANDIDATES, max_error=rate) for rate in (0.15, 0.2, 0.3)]
    thresholds = [guarantee.threshold for guarantee in rates if guarantee is not None]
    assert len(thresholds) == 3 and thresholds == sorted(thresholds)
    strict = guaranteed_threshold(score, correct, candidates=CANDIDATES, max_error=0.3, delta=0.001)
    assert strict is not None and strict.threshold <= thresholds[-1]


def test_nothing_can_be_guaranteed() -> None:
    score, _ = draw(500, 3)
    assert guaranteed_threshold(score, np.zeros(500, bool), candidates=CANDIDATES, max_error=0.3) is None
    few = guaranteed_threshold(score[:5], np.ones(5, bool), candidates=CANDIDATES, max_error=0.1)
    assert few is None  # five right answers prove little
    assert guaranteed_threshold([], np.array([], bool), candidates=CANDIDATES, max_error=0.1) is None


@pytest.mark.parametrize("options", [{"max_error": 0.0}, {"max_error": 1.0}, {"max_error": 0.2, "delta": 0.0}])
def test_rates_that_cannot_be(options: dict[str, float]) -> None:
    with pytest.raises(MetricInputError, match="guarantee"):
        guaranteed_threshold(*draw(10, 0), candidates=CANDIDATES, **options)


def test_one_question_for_each_entity() -> None:
    entity = np.array(["a", "b", "a", "", "", "b", "a"])
    chosen = one_per_entity(entity, seed=1)
    assert sorted(entity[chosen].tolist()) == ["", "", "a", "b"]
    assert {tuple(one_per_entity(entity, seed=seed)) for seed in range(20)} > {tuple(chosen)}
    assert chosen.tolist() == sorted(chosen.tolist())


def test_platt_calibration_finds_the_true_probabilities() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(size=20_000) * 4 + 3
    true = PlattCalibration(0.5, -1.0)
    correct = rng.uniform(size=len(logit)) >= true(logit)
    fitted = platt_calibration(logit, correct)
    assert fitted is not None
    assert fitted.slope == pytest.approx(0.5, abs=0.02) and fitted.intercept == pytest.approx(-1.0, abs=0.05)
    error = ece(fitted(logit), correct)
    assert error is not None and error < 0.015


def test_platt_calibration_is_finite_where_the_logit_separates() -> None:
    logit = np.array([-2.0, -1.0, 1.0, 2.0])
    fitted = platt_calibration(logit, logit < 0)
    assert fitted is not None and 0 < fitted.slope < 10
    assert platt_calibration(logit, np.ones(4, bool)) is None
    assert np.isfinite(PlattCalibration(1.0, 0.0)(np.array([-1e9, 1e9]))).all()


def test_one_sequence_uses_the_whole_delta() -> None:
    """From a good start, one sequence at level delta goes further than six at delta / 6."""
    rng = np.random.default_rng(0)
    score = rng.random(2000)
    correct = rng.random(2000) >= score
    candidates = np.linspace(0.01, 1, 100)
    start = most_evident_threshold(rng.random(500), np.ones(500, dtype=bool), candidates=candidates, max_error=0.25)
    assert start == 1.0  # nothing is wrong, so that more answers are more evidence
    val = rng.random(2000)
    start = most_evident_threshold(val, rng.random(2000) >= val, candidates=candidates, max_error=0.25)
    assert 0.08 < start < 0.3  # the error rate is half the threshold, so that the evidence is greatest near 0.17
    one = guaranteed_threshold(score, correct, candidates=candidates, max_error=0.25, start=start)
    six = guaranteed_threshold(score, correct, candidates=candidates, max_error=0.25)
    assert one is not None and six is not None and one.threshold > six.threshold
    late = guaranteed_threshold(score, correct, candidates=candidates, max_error=0.25, start=0.9)
    assert late is None  # a sequence ends with its first failure
    beyond = guaranteed_threshold(score, correct, candidates=candidates, max_error=0.9, start=2.0)
    assert beyond is not None and beyond.threshold == 1.0
