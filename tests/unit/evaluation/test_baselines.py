"""The baselines on data with known results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from metadeploy.data.question import Question
from metadeploy.evaluation.baselines import STRENGTHS, Comparison, category_doubt, linear_probe, probe
from metadeploy.evaluation.samples import Sample, Samples
from metadeploy.metrics import auroc
from metadeploy.training.records import Collected, Record


def record(correct: bool, category: str = "a") -> Record:
    return Record(
        question=Question("?", ("x",), category),
        answer="y",
        answer_ids=(1,),
        logprobs=(-1.0,),
        complete=True,
        correct=correct,
    )


def collected(seed: int, n: int, *, correct: bool | None = None) -> Collected:
    """Return layers 3, 5, 8: in layer 5, one direction encodes the label under noise; the others have only a hint."""
    draw = np.random.default_rng(seed)
    right = draw.random(n) < 0.4 if correct is None else np.full(n, correct)
    activations = draw.normal(size=(n, 3, 8))
    for layer, strength in enumerate((0.2, 4.0, 0.4)):
        activations[:, layer, 2] += strength * (right - 0.5)
    activations[:, :, 6] *= 100  # a channel with outliers, as in real models
    tensor = torch.from_numpy(activations).to(torch.bfloat16)
    return Collected([record(bool(is_right)) for is_right in right], tensor, (3, 5, 8))


def test_the_probe_finds_the_layer_that_knows() -> None:
    test = collected(2, 300)
    progress: list[tuple[int, int]] = []
    result = linear_probe(
        collected(0, 600), collected(1, 300), test.activations, progress=lambda *at: progress.append(at)
    )
    assert result is not None
    assert result.layer == 5
    assert progress == [(1, 3), (2, 3), (3, 3)]
    right = np.array([record.correct for record in test.records])
    reached = auroc(result.doubt, right)
    assert reached is not None
    # two classes four standard deviations apart: the normal distribution's Φ(4 / √2)
    assert reached == pytest.approx(0.9977, abs=0.01)
    assert result.val_auroc == pytest.approx(0.9977, abs=0.01)
    assert ((result.doubt >= 0) & (result.doubt <= 1)).all()
    assert result.doubt[~right].mean() > result.doubt[right].mean() + 0.2


def of_one_layer(right: np.ndarray, activations: np.ndarray) -> Collected:
    return Collected([record(bool(is_right)) for is_right in right], torch.from_numpy(activations[:, None]), (4,))


def hidden(seed: int, n: int) -> Collected:
    """The label is the small difference of two almost equal channels. Large weights find it."""
    draw = np.random.default_rng(seed)
    right = draw.random(n) < 0.5
    channels = np.repeat(draw.normal(size=(n, 1)), 2, axis=1)
    channels[:, 1] += 0.01 * (right - 0.5) + 0.004 * draw.normal(size=n)
    return of_one_layer(right, channels)


def drowned(seed: int, n: int) -> Collected:
    """Each of 200 noisy channels has a hint of the label, for a few questions. Small weights find it."""
    draw = np.random.default_rng(seed)
    right = draw.random(n) < 0.5
    return of_one_layer(right, draw.normal(size=(n, 200)) + 0.2 * (right[:, None] - 0.5))


def test_the_penalty_depends_on_the_data() -> None:
    """The choice depends on the data: it is neither always the lowest nor always the highest penalty."""
    test = hidden(2, 300)
    weak = linear_probe(hidden(0, 600), hidden(1, 300), test.activations)
    strong = linear_probe(drowned(0, 60), drowned(1, 300), drowned(2, 300).activations)
    assert weak is not None and strong is not None
    assert weak.strength >= 10
    assert strong.strength <= 0.01
    # classes 2.5 standard deviations apart in the difference: Φ(2.5 / √2)
    assert weak.val_auroc == pytest.approx(0.9615, abs=0.03)
    for result in (weak, strong):
        assert result.val_auroc == max(result.val_aurocs) == result.val_aurocs[STRENGTHS.index(result.strength)]


def test_the_probe_is_the_regression_of_the_library() -> None:
    """It equals the fit by L-BFGS from zero, run to convergence."""
    train, val, test = collected(0, 600), collected(1, 300), collected(2, 300)
    result, again = (linear_probe(train, val, test.activations) for _ in range(2))
    assert result is not None and again is not None
    assert result.converged
    assert result.doubt.tobytes() == again.doubt.tobytes()
    place = train.layers.index(result.layer)
    seen, test_features = (part.activations[:, place].double().numpy() for part in (train, test))
    scaler = StandardScaler().fit(seen)
    regression = LogisticRegression(C=result.strength, tol=1e-8, max_iter=10_000)
    regression.fit(scaler.transform(seen), [not record.correct for record in train.records])
    np.testing.assert_allclose(result.doubt, regression.predict_proba(scaler.transform(test_features))[:, 1], atol=1e-3)


def test_a_fit_without_convergence_gives_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_MAX_STEPS", 1)
    test = collected(2, 300)
    with pytest.warns(ConvergenceWarning):
        result = linear_probe(collected(0, 600), collected(1, 300), test.activations)
    assert result is not None
    assert not result.converged


@pytest.mark.parametrize("right", [True, False])
def test_no_probe_without_contrast(right: bool) -> None:
    test = collected(2, 20)
    assert linear_probe(collected(0, 40, correct=right), collected(1, 40), test.activations) is None
    assert linear_probe(collected(0, 40), collected(1, 40, correct=right), test.activations) is None


def test_the_category_alone() -> None:
    train = ["a", "a", "a", "a", "b", "b"]
    right = [True, True, True, False, False, False]
    doubts = category_doubt(train, right, ["b", "a", "unseen", "a"])
    assert doubts.tolist() == [1.0, 0.25, 0.5, 0.25]  # an unseen category gets the overall rate, 3 of 6


def samples(doubts: list[float], base: list[bool], answers: list[bool] | None = None) -> Samples:
    rows = zip(doubts, base, base if answers is None else answers, strict=True)
    return Samples(
        tuple(
            Sample(
                fingerprint="",
                index=index,
                question="?",
                accepted=("x",),
                category="ab"[index % 2],
                entity="",
                base_answer="",
                base_correct=right,
                base_logprob=0.0,
                base_first_logprob=0.0,
                doubt=doubt,
                answer="",
                answer_correct=answer_right,
            )
            for index, (doubt, right, answer_right) in enumerate(rows)
        )
    )


def test_a_perfect_doubter_against_its_opposite() -> None:
    n = 20
    base = [index < n // 2 for index in range(n)]
    doubts = np.linspace(0, 1, n)
    against = Comparison(samples=samples(doubts.tolist(), base), n_bootstrap=50)
    row = against.score("opposite", 1 - doubts, n_answered=8)
    assert (row["name"], row["kind"]) == ("opposite", "score")
    assert row["auroc"]["value"] == 0
    assert row["macro_auroc"]["value"] == 0
    assert row["selective_accuracy"]["value"] == 0
    assert row["selective_accuracy"]["n"] == 8
    doubter = row["doubter"]
    assert doubter["selective_accuracy"]["value"] == 1
    assert (doubter["only_doubter"], doubter["only_baseline"]) == (8, 0)
    assert doubter["p_value"] == pytest.approx(2 / 2**8)  # eight coin tosses on one side
    assert doubter["auroc_difference"]["value"] == 1
    assert doubter["auroc_difference"]["p_value"] == pytest.approx(2 / 51)


def test_a_comparison_draws_whole_entities() -> None:
    """40 questions occur twice, each pair about one entity. The interval is that of 40 questions, not of 80."""
    draw = np.random.default_rng(0)
    base = (draw.random(40) < 0.5).tolist()
    ours, theirs = (draw.random(40) + ~np.array(base) * weight for weight in (0.6, 0.3))
    once = samples(ours.tolist(), base)
    twice = Samples(tuple(replace(sample, entity=f"e{sample.index}") for sample in once for _ in range(2)))
    row = Comparison(samples=once, n_bootstrap=200).score("other", theirs, n_answered=15)
    double = Comparison(samples=twice, n_bootstrap=200).score("other", theirs.repeat(2), n_answered=30)
    for name in ("auroc", "macro_auroc"):
        assert double[name] == pytest.approx(row[name]), name
    assert double["doubter"]["auroc_difference"] == pytest.approx(row["doubter"]["auroc_difference"])
    for part, other in ((double, row), (double["doubter"], row["doubter"])):
        assert part["selective_accuracy"] == pytest.approx({**other["selective_accuracy"], "n": 30})
    # if they counted as 80, the interval would be narrower
    independent = Samples(tuple(replace(sample, entity="") for sample in twice))
    narrower = Comparison(samples=independent, n_bootstrap=200).score("other", theirs.repeat(2), n_answered=30)
    assert width(narrower["auroc"]) < 0.9 * width(double["auroc"])
    assert width(narrower["doubter"]["auroc_difference"]) < 0.9 * width(double["doubter"]["auroc_difference"])


def width(row: dict[str, Any]) -> float:
    return float(row["high"] - row["low"])


def test_a_score_without_errors_has_no_auroc() -> None:
    against = Comparison(samples=samples([0.1, 0.2], [True, True]), n_bootstrap=10)
    row = against.score("any", np.array([0.3, 0.1]), n_answered=1)
    assert row["auroc"] == {"value": None, "low": None, "high": None}
    assert row["doubter"]["auroc_difference"]["p_value"] is None
    assert row["selective_accuracy"]["value"] == 1


def test_a_point_is_compared_at_its_own_coverage() -> None:
    # it answers 4 of 6, two of them correctly; of the Doubter's four least doubted answers, three are right
    doubter = samples([0.1, 0.2, 0.3, 0.4, 0.8, 0.9], [True] * 3 + [False] * 3)
    declined = np.array([False, True, False, False, False, True])
    correct = np.array([True, False, True, False, False, False])
    row = Comparison(samples=doubter, n_bootstrap=10).point("told", declined, correct)
    assert row["coverage"]["value"] == pytest.approx(4 / 6)
    assert row["coverage"]["n"] == 6
    assert row["selective_accuracy"]["value"] == 0.5
    assert row["doubter"]["selective_accuracy"]["value"] == 0.75
    assert (row["doubter"]["only_doubter"], row["doubter"]["only_baseline"], row["doubter"]["p_value"]) == (1, 0, 1.0)
