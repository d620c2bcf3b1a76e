from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metadeploy.metrics import auroc
from metadeploy.sidecar.verdict import FIGURE_NAMES, VerdictConfig
from metadeploy.verdict.answers import Answers
from metadeploy.verdict.baselines import BASELINES, Baseline, verdict_baselines
from metadeploy.verdict.measure import compared, measured
from metadeploy.verdict.settings import VerdictSettings
from support.verdict_answers import TELLING_ANSWER, TELLING_PROMPT, random_answers

SETTINGS = VerdictSettings(base=Path(), sidecar=Path(), n_hidden=8, epochs=80)
CONFIG = VerdictConfig(prompt_layers=(TELLING_PROMPT,), answer_layers=(2, TELLING_ANSWER), hidden_dim=6, n_hidden=8)


@pytest.fixture(scope="module")
def answers() -> dict[str, Answers]:
    return {name: random_answers(600, seed=seed) for seed, name in enumerate(("train", "val", "test"))}


@pytest.fixture(scope="module")
def baselines(answers: dict[str, Answers]) -> dict[str, Baseline]:
    found = verdict_baselines(answers, CONFIG, SETTINGS, progress=lambda n, total: None)
    return {baseline.name: baseline for baseline in found}


def test_each_baseline_ranks_as_its_inputs_allow(answers: dict[str, Answers], baselines: dict[str, Baseline]) -> None:
    """The ideal AUROC of a shift of d standard deviations is the normal distribution at d / √2."""
    assert list(baselines) == list(BASELINES)
    scores = {name: auroc(baseline.doubt, answers["test"].correct) or 0.0 for name, baseline in baselines.items()}
    ideal = {
        "logprob_sum": 0.76, "logprob_mean": 0.5, "category": 0.5, "figures": 0.76, "tfidf_question": 0.5,
        "tfidf_answer": 0.7, "prompt_probe": 0.71, "prompt_layers": 0.71, "prompt_mlp": 0.71, "answer_last": 0.80,
        "answer_mean": 0.92,
    }  # fmt: skip
    for name, value in ideal.items():
        assert scores[name] == pytest.approx(value, abs=0.06), name


def test_a_new_kind_has_the_error_rate_of_all(answers: dict[str, Answers]) -> None:
    test = answers["test"]
    test = Answers(**{**vars(test), "category": np.array(["new", *test.category[1:]])})
    found = verdict_baselines({**answers, "test": test}, CONFIG, SETTINGS, progress=lambda n, total: None)
    doubt = next(baseline.doubt for baseline in found if baseline.name == "category")
    assert doubt[0] == pytest.approx((~answers["train"].correct).mean())


def test_comparison(answers: dict[str, Answers], baselines: dict[str, Baseline]) -> None:
    test = answers["test"]
    verdict = 1 / (1 + np.exp(-baselines["answer_mean"].doubt))
    chosen = [baselines[name] for name in ("logprob_sum", "tfidf_question", "answer_mean")]
    rows = compared(verdict, chosen, test, n_resamples=60, seed=0, progress=lambda n, total: None)
    assert list(rows) == ["logprob_sum", "tfidf_question", "answer_mean"]
    logprob = rows["logprob_sum"]
    assert logprob["auroc"] == auroc(-test.figures[:, FIGURE_NAMES.index("logprob_sum")], test.correct)
    for statistic in ("auroc", "macro_auroc"):
        ahead = logprob["ahead"][statistic]
        assert ahead["low"] > 0.05 and ahead["low"] < ahead["value"] < ahead["high"]
        assert ahead["p_value"] == pytest.approx(2 / 61) and ahead["p_holm"] == pytest.approx(6 / 61)
        same = rows["answer_mean"]["ahead"][statistic]
        assert (same["value"], same["p_holm"]) == (0, 1)
    figures = measured(verdict, test)
    worst = figures["ece_worst_kind"]
    assert worst["ece"] >= figures["ece"] > figures["ece_noise_floor"] > 0 and worst["n"] > 150
    assert figures["auroc"] == rows["answer_mean"]["auroc"] and 0 < figures["brier"] < 0.2
