"""Pretraining of the encoder: what it learns, and its predictions for held-out questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from metadeploy.data.question import Question
from metadeploy.metrics import auroc
from metadeploy.reference.doubter import Doubter
from metadeploy.sidecar.spec import WrapperConfig
from metadeploy.training.examples import Example
from metadeploy.training.initialization import new_wrapper, standardize
from metadeploy.training.pretraining import cross_fit_labels, pretrain
from metadeploy.training.records import Record
from metadeploy.training.settings import FitSettings
from metadeploy.training.targets import LabeledSplit

CONFIG = WrapperConfig(
    encoder_type="selective",
    hidden_dim=24,
    encoder_dim=16,
    bottleneck_dim=16,
    num_cognitive_tokens=2,
    ca_num_heads=2,
    enc_num_heads=2,
    target_layers=(0, 1),
    cross_attn_layers=(1,),
    base_block_count=2,
)
FIT = FitSettings(pretrain_epochs=40, pretrain_lr=3e-3, dropout=0.0)


def fresh() -> Doubter:
    return new_wrapper(CONFIG)


def lessons_of(activations: Tensor, wrong: Sequence[bool], entities: Sequence[str]) -> LabeledSplit:
    records = [
        Record(
            question=Question(f"q{index}?", ("a",), "kind", entity),
            answer="a",
            answer_ids=(1,),
            logprobs=(-1.0,),
            complete=True,
            correct=not error,
        )
        for index, (error, entity) in enumerate(zip(wrong, entities, strict=True))
    ]
    examples = [
        Example(prompt_ids=(1,), target_ids=(2,), declines=error, doubt=float(error), n_own=0 if error else 1)
        for error in wrong
    ]
    return LabeledSplit(examples, activations, records)


def drawn(count: int, *, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, CONFIG.hidden_dim, generator=torch.Generator().manual_seed(seed))


def given_away(count: int, *, flipped: int) -> tuple[LabeledSplit, np.ndarray]:
    """Return questions with labels that some features predict, except for flipped labels; and the true errors."""
    activations = drawn(count)
    truth = np.arange(count) % 2 == 0
    activations[:, :, :8] += torch.from_numpy(np.where(truth, 0.5, -0.5)).float()[:, None, None]
    verdicts = truth.copy()
    verdicts[:flipped] ^= True
    return lessons_of(activations, verdicts.tolist(), [f"e{i}" for i in range(count)]), truth


def test_the_head_says_the_log_odds() -> None:
    lessons, truth = given_away(600, flipped=0)
    torch.manual_seed(0)
    doubter = fresh()
    standardize(doubter, lessons.activations)
    learned = pretrain(doubter, lessons, FIT)
    with torch.no_grad():
        odds = doubter.eval()(lessons.activations).mean(1) @ learned.direction + learned.bias
    area = auroc(torch.sigmoid(odds).numpy(), ~truth)
    assert area is not None and area > 0.98
    assert learned.losses[-1] < 0.5 * learned.losses[0]


def test_soft_labels_correct_flipped_labels() -> None:
    lessons, truth = given_away(900, flipped=90)
    doubts = cross_fit_labels(fresh, lessons, FIT).numpy()
    hard = lessons.doubts.numpy()
    opinions = 2 * doubts - hard  # half of each
    assert ((opinions >= 0) & (opinions <= 1)).all()
    # for flipped labels, the held-out predictions agree with the truth
    assert opinions[:90][truth[:90]].mean() > 0.75
    assert opinions[:90][~truth[:90]].mean() < 0.25
    # and no label is overruled: it is half of the soft label
    assert ((doubts >= 0.5) == (hard == 1)).all()


def test_predictions_are_held_out() -> None:
    """Labels are random and equal for two questions about one entity. Only a leak could predict them."""
    activations, coin = drawn(300), torch.rand(300, generator=torch.Generator().manual_seed(1)) < 0.5
    twice = torch.cat([activations, activations])
    entities = [f"e{i}" for i in range(300)] * 2
    lessons = lessons_of(twice, [*coin.tolist(), *coin.tolist()], entities)
    hard = lessons.doubts.numpy()
    opinions = 2 * cross_fit_labels(fresh, lessons, FIT).numpy() - hard
    area = auroc(opinions, hard == 0)
    assert area is not None and area < 0.6

    records = [
        dataclasses.replace(record, question=Question(f"q{index}?", ("a",), "kind"))
        for index, record in enumerate(lessons.records)
    ]
    strangers = dataclasses.replace(lessons, records=records)
    leaking = auroc(2 * cross_fit_labels(fresh, strangers, FIT).numpy() - hard, hard == 0)
    assert leaking is not None and leaking > 0.7  # the test would see a leak


def test_soft_labels_depend_on_the_seed() -> None:
    lessons, _ = given_away(120, flipped=10)
    fit = dataclasses.replace(FIT, pretrain_epochs=1)
    progress: list[tuple[int, int]] = []
    once = cross_fit_labels(fresh, lessons, fit, progress=lambda done, total: progress.append((done, total)))
    assert progress == [(0, 3), (1, 3), (2, 3), (3, 3)]
    torch.rand(3)
    assert torch.equal(once, cross_fit_labels(fresh, lessons, fit))
    assert not torch.equal(once, cross_fit_labels(fresh, lessons, dataclasses.replace(fit, seed=1)))


@pytest.mark.parametrize("n_subjects", [1, 2])
def test_folds_need_two_entities(n_subjects: int) -> None:
    lessons = lessons_of(drawn(4), [True, False, True, False], [f"e{i % n_subjects}" for i in range(4)])
    doubts = cross_fit_labels(fresh, lessons, dataclasses.replace(FIT, pretrain_epochs=1))
    assert torch.equal(doubts, lessons.doubts) == (n_subjects == 1)
