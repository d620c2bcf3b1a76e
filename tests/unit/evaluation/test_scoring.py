"""Results, means over runs and tables from hand-made samples, and invalid settings."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from metadeploy.errors import Error
from metadeploy.evaluation.aggregate import over_runs
from metadeploy.evaluation.report import mean_tables, tables
from metadeploy.evaluation.samples import AtGain, PromptedAnswer, Sample, Samples
from metadeploy.evaluation.scoring import (
    accuracy_at_coverages,
    baseline_scores,
    gain_points,
    score_samples,
    selective_point,
)
from metadeploy.evaluation.settings import EvalSettings, parse_gains

REFUSAL = "I cannot say."


def sample(index: int, base: bool, doubt: float, right: bool | None = None, **fields: Any) -> Sample:
    """Return a sample whose log-probability is minus its number."""
    declined = REFUSAL if doubt >= 0.5 else None
    return Sample(
        **{
            "fingerprint": "f",
            "index": index,
            "question": "?",
            "accepted": ("x",),
            "category": "ab"[index % 2],
            "entity": "",
            "base_answer": "y",
            "base_correct": base,
            "base_logprob": -float(index),
            "base_first_logprob": -1.0,
            "doubt": doubt,
            "answer": "y",
            "answer_correct": base if right is None else right,
            "declined_text": declined,
            **fields,
        }
    )


def test_the_least_doubted_of_many_and_of_none() -> None:
    accuracy = accuracy_at_coverages(Samples(tuple(sample(index, index < 15, index / 60) for index in range(60))))
    assert [row["n"] for row in accuracy] == [3, 6, 9, 12, 15, 18, 24, 30]
    assert [row["value"] for row in accuracy] == pytest.approx([1] * 5 + [15 / 18, 15 / 24, 15 / 30])
    assert [row["value"] for row in accuracy_at_coverages(Samples(()))] == [None] * 8


def test_questions_about_one_entity_are_drawn_together(samples: Samples) -> None:
    """If each question occurs three times as one entity, the intervals do not change."""
    swept = [Sample(**{**vars(sample), "gains": (at_2(sample.doubt, True),)}) for sample in samples]
    thrice = [Sample(**{**vars(sample), "entity": f"e{sample.index}"}) for sample in swept for _ in range(3)]
    once, more = (
        score_samples(
            Samples(tuple(rows)),
            threshold=0.5,
            refusal_text=REFUSAL,
            scores=baseline_scores(Samples(tuple(rows)), {}),
            n_bootstrap=60,
        )
        for rows in (swept, thrice)
    )
    assert (once["n"], more["n"]) == (8, 24)
    assert once["bootstrap"]["entities"] == more["bootstrap"]["entities"] == 8
    for name in ("coverage", "selective_accuracy", "same_words_rate", "auroc"):
        assert ends(more["metrics"][name]) == pytest.approx(ends(once["metrics"][name])), name
    half, half_more = once["least_doubted"][-1], more["least_doubted"][-1]
    assert ends(half_more) == pytest.approx(ends(half))
    assert (half["n"], half_more["n"]) == (4, 12)
    for row, row_more in zip(once["baselines"] + once["gains"], more["baselines"] + more["gains"], strict=True):
        assert ends(row_more["doubter"]["selective_accuracy"]) == pytest.approx(
            ends(row["doubter"]["selective_accuracy"])
        )
    assert ends(more["baselines"][0]["auroc"]) == pytest.approx(ends(once["baselines"][0]["auroc"]))
    assert ends(more["gains"][1]["coverage"]) == pytest.approx(ends(once["gains"][1]["coverage"]))


def ends(row: dict[str, Any]) -> list[float]:
    return [row["value"], row["low"], row["high"]]


def told(declined: bool, correct: bool) -> PromptedAnswer:
    return PromptedAnswer(answer="y", declined=declined, correct=correct)


@pytest.fixture
def samples() -> Samples:
    """Eight questions: the base gets 0, 1, 2, 3 right. Below 0.5 the Doubter answers 0, 1, 2, 4 and corrects 4.

    Its answer to 0 differs from the base's by a space, to 1 it is right in other words, and it declines 3.
    """
    return Samples(
        (
            sample(0, True, 0.1, told=told(False, True), answer=" y\n"),
            sample(1, True, 0.2, told=told(False, True), answer="Y"),
            sample(2, True, 0.3, False, answer="z", told=told(True, False)),
            sample(3, True, 0.6, told=told(True, False)),
            sample(4, False, 0.4, True, told=told(False, False)),
            sample(5, False, 0.7, told=told(False, False)),
            sample(6, False, 0.8, told=told(False, True)),
            sample(7, False, 0.9, declined_text="I cannot say. Or can I?", told=told(True, False)),
        )
    )


def test_the_results_of_hand_made_samples(samples: Samples) -> None:
    scores = baseline_scores(samples, {"probe": np.linspace(0, 1, 8)})
    judged = score_samples(samples, threshold=0.5, refusal_text=REFUSAL, scores=scores, n_bootstrap=50)
    values = {name: row["value"] for name, row in judged["metrics"].items()}
    assert judged["n"] == 8
    assert values["base_accuracy"] == 4 / 8
    assert values["coverage"] == 4 / 8
    assert values["selective_accuracy"] == 3 / 4  # 0, 1 and 4 of 0, 1, 2, 4
    assert values["over_refusal_rate"] == 1 / 4  # 3 of 0, 1, 2, 3
    assert values["smart_refusal_rate"] == 3 / 4
    assert values["kept_rate"] == 2 / 3
    assert values["same_words_rate"] == 1 / 3  # 0 of 0, 1, 2
    assert judged["categories"]["b"]["same_words_rate"] == 0
    assert values["auroc"] == 15 / 16  # only 4 is doubted less than a right answer, the one of 3
    right = {row["coverage"]: (row["value"], row["n"]) for row in judged["least_doubted"]}
    assert list(right) == [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5]
    # by doubt 0, 1, 2, 4, 3, 5, 6, 7, of which 2 is wrong; of a third answer 0.4, and of a fourth 0.2
    assert right[0.05] == (1, 1)
    assert right[0.25] == (1, 2)
    assert right[0.3] == (pytest.approx(2 / 2.4), 3)
    assert right[0.4] == (pytest.approx(2.2 / 3.2), 4)
    assert right[0.5] == (3 / 4, 4)
    assert judged["refusals"] == {"at_threshold": 0.5, "declined": 4, "word_for_word": 3}
    assert judged["gains"] == []
    rows = {row["name"]: row for row in judged["baselines"]}
    assert list(rows) == [
        "mean log-probability",
        "first token's log-probability",
        "probe",
        "told that it may decline",
    ]
    by_logprob = rows["mean log-probability"]  # the least doubted four are 0 to 3, all of them right
    assert by_logprob["auroc"]["value"] == 1
    assert by_logprob["selective_accuracy"]["value"] == 1
    assert by_logprob["doubter"]["selective_accuracy"]["value"] == 3 / 4
    # the Doubter alone has 4, the log-probability alone 2 and 3
    assert (by_logprob["doubter"]["only_doubter"], by_logprob["doubter"]["only_baseline"]) == (1, 2)
    assert rows["first token's log-probability"]["auroc"]["value"] == 0.5
    by_telling = rows["told that it may decline"]
    assert by_telling["coverage"]["value"] == 5 / 8
    assert by_telling["selective_accuracy"]["value"] == 3 / 5
    assert by_telling["doubter"]["selective_accuracy"]["value"] == 4 / 5  # at this coverage it also answers 3
    json.dumps(judged, allow_nan=False)


def test_the_threshold_changes_the_declined_questions(samples: Samples) -> None:
    def metrics_at(threshold: float) -> dict[str, Any]:
        result = score_samples(samples, threshold=threshold, refusal_text=REFUSAL, scores={}, n_bootstrap=10)
        assert result["baselines"] == []
        return {name: row["value"] for name, row in result["metrics"].items()}

    assert metrics_at(0.25)["coverage"] == 2 / 8
    assert metrics_at(0.25)["selective_accuracy"] == 1
    assert metrics_at(1.0)["coverage"] == 1
    assert metrics_at(0.0)["coverage"] == 0
    assert metrics_at(0.0)["selective_accuracy"] is None


def test_the_gain_as_a_dial() -> None:
    samples = Samples(
        (
            sample(0, True, 0.2, gains=(AtGain(gain=0.0, doubt=0.9, answer_correct=True), at_2(0.4, True))),
            sample(1, False, 0.6, gains=(AtGain(gain=0.0, doubt=0.1, answer_correct=False), at_2(0.9, False))),
            sample(2, True, 0.4, gains=(AtGain(gain=0.0, doubt=0.2, answer_correct=True), at_2(0.7, True))),
            sample(3, True, 0.1),  # not in the sweep
        )
    )
    points = gain_points(samples, threshold=0.5)
    assert [point["gain"] for point in points] == [0.0, 1.0, 2.0]
    assert [selective_point(point) for point in points] == [(1.0, 2 / 3), (2 / 3, 1.0), (1 / 3, 1.0)]
    assert [point["auroc"] for point in points] == [0.0, 1.0, 1.0]
    assert points[0]["doubter"]["selective_accuracy"]["value"] == 2 / 3


def at_2(doubt: float, right: bool) -> AtGain:
    return AtGain(gain=2.0, doubt=doubt, answer_correct=right)


def results(samples: Samples, name: str, threshold: float = 0.5) -> dict[str, Any]:
    """Return results in the runner's form, with the entries that the tables read."""
    scores = baseline_scores(samples, {})
    return {
        "config": {"run": name},
        "threshold": {"value": threshold},
        **score_samples(samples, threshold=threshold, refusal_text=REFUSAL, scores=scores, n_bootstrap=20),
        "trained_baselines": {"linear probe": {"left_out": "there are no [activations]"}},
        "samples": {"file": "samples.jsonl", "fingerprint": "f"},
    }


def test_means_over_runs(samples: Samples) -> None:
    """Coverages 2/8, 4/8 and 6/8: mean 1/2, s = 1/4, t(0.975; 2) = 4.3027."""
    runs = [results(samples, str(threshold), threshold) for threshold in (0.25, 0.5, 0.75)]
    combined = over_runs(runs)
    assert [run["run"] for run in combined["runs"]] == ["0.25", "0.5", "0.75"]
    coverage = combined["metrics"]["coverage"]
    assert (coverage["mean"], coverage["n"]) == (0.5, 3)
    assert coverage["high"] - coverage["mean"] == pytest.approx(4.302653 * 0.25 / 3**0.5)
    assert combined["metrics"]["base_accuracy"]["low"] == combined["metrics"]["base_accuracy"]["high"] == 0.5
    half = combined["least_doubted"][-1]  # it does not depend on the threshold, so it is the same for all three
    assert half == {"coverage": 0.5, "mean": 0.75, "low": 0.75, "high": 0.75, "n": 3}
    baseline = combined["baselines"]["mean log-probability"]
    assert baseline["auroc"]["mean"] == 1
    assert baseline["selective_accuracy"]["mean"] == pytest.approx((1 + 1 + 4 / 6) / 3)
    assert baseline["doubter_selective_accuracy"]["mean"] == pytest.approx((1 + 3 / 4 + 4 / 6) / 3)
    assert len(baseline["p_values"]) == 3
    json.dumps(combined, allow_nan=False)


def test_a_mean_leaves_out_undefined_values(samples: Samples) -> None:
    combined = over_runs([results(samples, "a", 0.0), results(samples, "b", 0.5)])
    assert combined["metrics"]["selective_accuracy"] == {"mean": 3 / 4, "low": None, "high": None, "n": 1}


def test_the_tables_show_the_results(samples: Samples) -> None:
    swept = [Sample(**{**vars(sample), "gains": (at_2(sample.doubt, True),)}) for sample in samples]
    run = results(Samples(tuple(swept)), "a")
    text = printed(*tables(run))
    for part in ("50.0%", "75.0%", "told that it may decline", "gain (8 questions)"):
        assert part in text
    assert "8 questions about 8 entities, threshold 0.5" in text
    assert "refusals word for word: 3 of 4" in text
    assert re.search("the least doubted +5% +10% +15% +20% +25% +30% +40% +50%", text)
    assert re.search("right of the answered +100.0% .* 75.0%", text)
    assert re.search("same words: .* 33.3%", text)
    assert "linear probe: left out, because there are no [activations]" in text
    means = printed(*mean_tables(over_runs([run, run])))
    assert "mean of 2 runs" in means
    assert "mean log-probability" in means
    assert re.search("right of the answered +100.0% .* 75.0%", means)


def printed(*what: Any) -> str:
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as captured:
        for part in what:
            console.print(part, soft_wrap=isinstance(part, str))
    return captured.get()


def test_all_invalid_settings_are_named() -> None:
    with pytest.raises(Error) as caught:
        EvalSettings(
            engine="runtime",
            dtype="float32",
            threshold=0.4,
            target_coverage=1.5,
            max_over_refusal=0.2,
            gains=(float("nan"),),
            limit=0,
        )
    message = str(caught.value)
    assert message.startswith("eval: 5 faults")
    for part in (
        "--target-coverage is 1.5, expected 0 to 1",
        "--target-coverage and --max-over-refusal and --threshold are given",
        "--dtype is given",
        "--gains has nan",
        "--limit is 0",
    ):
        assert part in message


def test_spellings_of_gains() -> None:
    assert parse_gains("0, 0.5,1,0.5") == (0.0, 0.5, 1.0)
    assert parse_gains("none") == ()
    with pytest.raises(ValueError, match="could not convert"):
        parse_gains("1,two")


def test_one_by_one_fewer_are_swept() -> None:
    assert EvalSettings().max_swept == 1000
    assert EvalSettings(engine="runtime").max_swept == 200
    assert EvalSettings(engine="runtime", sweep_limit=7).max_swept == 7


def test_an_empty_answer_is_the_least_likely_one() -> None:
    """It is always wrong, and has no tokens with a likelihood."""
    empty = {"base_answer": "", "base_logprob": None, "base_first_logprob": None}
    drawn = Samples((sample(0, True, 0.1), sample(7, False, 0.2), sample(1, False, 0.3, **empty)))
    for score in baseline_scores(drawn, {}).values():
        assert score.argmax() == 2
    nothing = Samples((sample(0, False, 0.1, **empty),))
    assert all(np.isfinite(score).all() for score in baseline_scores(nothing, {}).values())
