"""The summary of a run: every metric, ready for JSON, defined or null."""

from __future__ import annotations

import importlib.util
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metadeploy import metrics
from metadeploy.errors import Error, MissingDependencyError

N = 300


def a_run(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    doubt = rng.random(N)
    base_correct = rng.random(N) > doubt
    answered = doubt < 0.4
    return {
        "base_correct": base_correct,
        "answered": answered,
        "correct": answered & (base_correct ^ (rng.random(N) < 0.05)),
        "same_words": rng.random(N) < 0.8,
        "doubt": doubt,
        "category": rng.choice(["plural", "capital", "opposite"], N),
    }


def strict(report: dict[str, Any]) -> dict[str, Any]:
    """Return the report after a round trip through JSON without NaN, which must not change it."""
    copy: dict[str, Any] = json.loads(json.dumps(report, allow_nan=False))
    assert copy == report
    return copy


def test_values_match_the_metrics() -> None:
    run = a_run()
    report = strict(metrics.summarize(**run, n_bootstrap=50))
    values = report["metrics"]
    base, answered, correct, same, doubt, category = run.values()
    low, high = metrics.bootstrap_interval(lambda at: answered[at].mean(), N, n_resamples=50)
    assert values["coverage"] == {"value": answered.mean(), "low": low, "high": high, "n": N}
    assert values["selective_accuracy"]["value"] == pytest.approx(correct[answered].mean())
    assert values["selective_accuracy"]["n"] == answered.sum()
    assert values["same_words_rate"]["value"] == pytest.approx(same[answered & base].mean())
    assert values["same_words_rate"]["n"] == values["kept_rate"]["n"] == (answered & base).sum()
    assert values["abstention_f1"]["value"] == metrics.abstention(base, answered).f1
    for name in ("auroc", "auprc", "aurc", "e_aurc", "prr", "ece", "brier"):
        assert values[name]["value"] == getattr(metrics, name)(doubt, base), name
    assert values["macro_auroc"]["value"] == pytest.approx(metrics.macro_auroc(doubt, base, category))
    assert values["pooled_auroc"]["value"] == pytest.approx(metrics.pooled_auroc(doubt, base, category))
    for name, entry in values.items():
        assert entry["low"] <= entry["value"] <= entry["high"], name
        assert entry["low"] < entry["high"], name
    assert report["n"] == N
    assert report["bootstrap"] == {"n_resamples": 50, "seed": 0, "confidence": 0.95, "entities": N}


def test_questions_about_one_entity_are_drawn_together() -> None:
    """If each question occurs twice as one entity, the intervals do not change."""
    run = a_run()
    once = metrics.summarize(**run, n_bootstrap=50)
    twice = metrics.summarize(
        **{name: column.repeat(2) for name, column in run.items()}, entity=np.arange(N).repeat(2), n_bootstrap=50
    )
    assert twice["bootstrap"] == once["bootstrap"]
    for name, entry in once["metrics"].items():
        if name not in ("aurc", "e_aurc", "prr"):  # the curve has twice as many points
            assert twice["metrics"][name] == pytest.approx({**entry, "n": 2 * entry["n"]}), name


def test_a_proportion_of_one_has_wilsons_interval() -> None:
    run = a_run()
    twice = {name: column.repeat(2) for name, column in {**run, "correct": run["answered"]}.items()}
    entry = metrics.summarize(**twice, entity=np.arange(N).repeat(2), n_bootstrap=50)["metrics"]["selective_accuracy"]
    answered = int(run["answered"].sum())
    assert entry["n"] == 2 * answered
    assert (entry["low"], entry["high"]) == metrics.Share(answered, answered).interval


def test_mcnemar_rewards_a_declined_error() -> None:
    report = metrics.summarize(
        base_correct=[True, True, True, False, False, False],
        answered=[True, True, False, True, True, False],
        correct=[True, False, False, True, False, False],
        same_words=[True] * 6,
        doubt=[0.1] * 6,
        category=["x"] * 6,
        n_bootstrap=1,
    )
    # the base alone: broken, declined; the Doubter alone: corrected, error declined
    assert report["mcnemar"] == {"only_base": 2, "only_doubter": 2, "p_value": 1.0}


def test_categories() -> None:
    run = a_run()
    report = metrics.summarize(**run, n_bootstrap=1)
    assert list(report["categories"]) == ["capital", "opposite", "plural"]
    at = run["category"] == "plural"
    plural = report["categories"]["plural"]
    assert plural["n"] == at.sum()
    assert plural["base_accuracy"] == pytest.approx(run["base_correct"][at].mean())
    assert plural["selective_accuracy"] == pytest.approx(run["correct"][at & run["answered"]].mean())
    passed = at & run["answered"] & run["base_correct"]
    assert plural["same_words_rate"] == pytest.approx(run["same_words"][passed].mean())
    assert plural["auroc"] == metrics.auroc(run["doubt"][at], run["base_correct"][at])


def test_categories_that_do_not_count_are_left_out_of_the_macro_mean() -> None:
    run = a_run()
    rare = np.array(["rare"] * 6)
    more = {
        "base_correct": np.array([True] + [False] * 5),
        "answered": np.zeros(6, dtype=bool),
        "correct": np.zeros(6, dtype=bool),
        "same_words": np.zeros(6, dtype=bool),
        "doubt": np.linspace(0.9, 0.1, 6),
        "category": rare,
    }
    both = {name: np.concatenate([run[name], more[name]]) for name in run}
    alone, with_rare = (metrics.summarize(**which, n_bootstrap=20)["metrics"] for which in (run, both))
    assert with_rare["macro_auroc"]["n"] == N
    assert with_rare["macro_auroc"]["value"] == alone["macro_auroc"]["value"]
    assert with_rare["pooled_auroc"]["value"] != alone["pooled_auroc"]["value"]


def test_the_same_seed_gives_the_same_report() -> None:
    first, again, other = (metrics.summarize(**a_run(), n_bootstrap=30, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first["metrics"]["auroc"]["low"] != other["metrics"]["auroc"]["low"]
    assert first["metrics"]["coverage"]["value"] == other["metrics"]["coverage"]["value"]


NONE = np.zeros(4, dtype=bool)
ALL = np.ones(4, dtype=bool)


@pytest.mark.parametrize(
    ("base_correct", "answered", "undefined"),
    [
        (NONE[:0], NONE[:0], "base_accuracy coverage selective_accuracy auroc auprc aurc e_aurc prr ece brier"),
        (ALL, ALL, "refusal_precision smart_refusal_rate abstention_f1 auroc auprc prr macro_auroc pooled_auroc"),
        (NONE, NONE, "selective_accuracy over_refusal_rate kept_rate same_words_rate broken_rate auroc auprc prr"),
        (NONE, NONE, "macro_auroc pooled_auroc"),
    ],
)
def test_undefined_values_are_null(base_correct: np.ndarray, answered: np.ndarray, undefined: str) -> None:
    n = len(answered)
    correct = answered & base_correct
    report = strict(metrics.summarize(base_correct, answered, correct, correct, np.linspace(0, 1, n), ["x"] * n))
    for name in undefined.split():
        entry = report["metrics"][name]
        assert (entry["value"], entry["low"], entry["high"]) == (None, None, None), name
    for name, entry in report["metrics"].items():
        assert (entry["value"] is None) <= (entry["low"] is None and entry["high"] is None), name
    assert report["mcnemar"]["p_value"] <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"doubt": np.full(N, 1.5)}, "'doubt': 1.5 at index 0, expected a probability from 0 to 1"),
        ({"doubt": np.full(N - 1, 0.5)}, "'doubt': 299 entries, expected 300 like 'base_correct'"),
        ({"category": ["x"]}, "'category': 1 entries, expected 300 like 'base_correct'"),
        (
            {"answered": np.zeros(N, dtype=bool)},
            "'correct': True at index .*, expected False",
        ),
        ({"same_words": [0] * N}, "'same_words': elements are int64, expected bool"),
        ({"entity": ["x"]}, "'entity': 1 entries, expected 300"),
        ({"n_bootstrap": 0}, "n_resamples is 0, expected at least 1"),
    ],
)
def test_malformed_input_is_an_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises(Error, match=message):
        metrics.summarize(**(a_run() | change))


@pytest.mark.parametrize(
    ("package", "missing"), [("metrics", "sklearn"), ("metrics", "scipy"), ("plots", "matplotlib")]
)
def test_a_missing_package_says_what_to_install(package: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    source = Path(metrics.__file__).parents[1] / package / "__init__.py"
    with pytest.raises(MissingDependencyError, match=r"pip install 'metadeploy\[eval\]'"):
        runpy.run_path(str(source))
