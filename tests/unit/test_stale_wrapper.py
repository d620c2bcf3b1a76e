"""A wrapper belongs to its training questions: after other questions are collected, no command measures it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metadeploy.card import write_card
from metadeploy.checkpoint.run_dir import SPLITS, RunDir
from metadeploy.errors import RunDirError
from metadeploy.evaluation.ladder import LadderSettings, run_ladder
from metadeploy.evaluation.runner import evaluate
from metadeploy.evaluation.settings import EvalSettings
from metadeploy.export import export
from metadeploy.training.collect import collect
from metadeploy.training.records import Collected
from metadeploy.training.settings import CollectSettings, FitSettings, TrainSettings
from metadeploy.training.train import link_collected, train
from support.tiny_questions import collect_settings, write_base_and_questions

SETTINGS = TrainSettings(
    target_layers="all",
    cross_attn_layers="1-2",
    bottleneck_dim=16,
    fit=FitSettings(pretrain_epochs=1, epochs=1, folds=1, batch_size=16),
    device="cpu",
)

#: Contents of run.json from versions that did not compare the two.
EARLIER: dict[str, Any] = {
    "collect": {
        "base": "SmolLM2-135M-Instruct.Q4_1.gguf",
        "questions": "facts",
        "layers": [20, 21, 22, 23, 24, 25, 26, 27, 28, 29],
        "dtype": "bfloat16",
        "quantization": None,
        "device": "auto",
        "answer_suffix": None,
        "chat_template_kwargs": {},
        "max_new_tokens": 24,
        "whole_answer": False,
        "batch_size": 128,
        "limit": None,
        "seed": 0,
        "questions_sha256": "25c2586371f949de938e732bfa31ea28b8911fbd58bac36a01c6f68fb13cd80d",
    },
    "train": {
        "encoder_type": "selective",
        "target_layers": "late",
        "cross_attn_layers": "late",
        "inject_from": "last_prompt_token",
        "bottleneck_dim": 64,
        "ca_num_heads": 4,
        "enc_num_heads": 8,
        "num_cognitive_tokens": 8,
        "encoder_blocks": 2,
        "refusal_text": "I'm not confident enough to answer this question accurately.",
        "self_correction": 0.0,
        "leave_out": [],
        "keep_cache": True,
        "point": {"max_over_refusal": 0.37, "target_coverage": None},
        "fit": {
            "pretrain_epochs": 10,
            "pretrain_lr": 0.001,
            "folds": 3,
            "epochs": 2,
            "patience": 2,
            "batch_size": 32,
            "refusal_share": 0.25,
            "lr": 0.0003,
            "weight_decay": 0.01,
            "warmup": 0.05,
            "clip": 1.0,
            "decision_weight": 4.0,
            "keep_weight": 8.0,
            "dropout": 0.5,
            "seed": 0,
        },
        "device": "auto",
        "best_epoch": 2,
        "epochs_done": 2,
        "interrupted": False,
        "val": {"coverage": 0.29, "selective_accuracy": 0.65, "over_refusal": 0.37},
        "fingerprint": "0e8564c33446f63765935a3b3100e43386beeb0dbd59b28cabebd203bdac59aa",
    },
}


@dataclasses.dataclass(frozen=True)
class StaleRun:
    """A run whose questions were drawn again after training."""

    run: RunDir
    collected: CollectSettings
    base: Path


@pytest.fixture(scope="module")
def stale(tmp_path_factory: pytest.TempPathFactory) -> StaleRun:
    folder = tmp_path_factory.mktemp("stale")
    base, questions = write_base_and_questions(folder)
    settings = collect_settings(base, questions)
    run = RunDir(folder / "run", create=True)
    collect(run, settings)
    train(run, SETTINGS)
    run.refuse_stale_checkpoint()
    taught = asked(run, "train")
    collect(run, dataclasses.replace(settings, seed=1), restart=True)
    assert taught & asked(run, "test"), "otherwise the refusal would prove little"
    return StaleRun(run, settings, base)


def asked(run: RunDir, split: str) -> set[str]:
    return {record.question.question for record in Collected.read(run.collect, split).records}


@pytest.mark.parametrize(
    "command",
    [
        lambda stale: evaluate(stale.run, EvalSettings(gains=(), baselines=False, n_bootstrap=1)),
        lambda stale: run_ladder(stale.run, LadderSettings(base=stale.base, types=("F32",), sidecar_types=())),
        lambda stale: write_card(stale.run),
        lambda stale: export(stale.run.path),
    ],
    ids=["eval", "ladder", "card", "export"],
)
def test_a_wrapper_of_earlier_questions_is_refused(stale: StaleRun, command: Callable[[StaleRun], object]) -> None:
    before = set(stale.run.path.rglob("*"))
    with pytest.raises(RunDirError) as caught:
        command(stale)
    assert str(caught.value).startswith(f"run directory '{stale.run.path}': its Doubter was trained on other questions")
    assert "(hint: metadeploy train --restart" in str(caught.value)
    assert set(stale.run.path.rglob("*")) == before


def test_a_new_training_or_the_old_questions_fit_again(stale: StaleRun, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run", create=True)
    link_collected(run, stale.run)
    train(run, SETTINGS)
    RunDir(run.path).refuse_stale_checkpoint()
    again = dataclasses.replace(stale.collected, seed=1)
    collect(run, again, restart=True)  # the same questions
    RunDir(run.path).refuse_stale_checkpoint()
    collect(run, stale.collected, restart=True)
    with pytest.raises(RunDirError, match="was trained on other questions"):
        RunDir(run.path).refuse_stale_checkpoint()
    collect(run, again, restart=True)
    RunDir(run.path).refuse_stale_checkpoint()
    train(run, dataclasses.replace(SETTINGS, bottleneck_dim=8), restart=True)
    RunDir(run.path).refuse_stale_checkpoint()


def test_runs_that_share_questions_are_independent(stale: StaleRun, tmp_path: Path) -> None:
    source, run = RunDir(tmp_path / "source", create=True), RunDir(tmp_path / "run", create=True)
    link_collected(source, stale.run)
    link_collected(run, source)
    train(run, SETTINGS)
    before = {split: asked(run, split) for split in SPLITS}
    collect(source, stale.collected, restart=True)
    assert {split: asked(run, split) for split in SPLITS} == before
    RunDir(run.path).refuse_stale_checkpoint()


def test_older_run_directories_still_work(tmp_path: Path) -> None:
    run = RunDir(tmp_path, create=True)
    run.update(EARLIER)
    run.refuse_stale_checkpoint()
    run.update({"collect": {**EARLIER["collect"], "seed": 1}})
    with pytest.raises(RunDirError, match="was trained on other questions"):
        run.refuse_stale_checkpoint()
    # without a record of its training questions, nothing can be compared
    for without in ({"collect": None}, {"train": None}, {"train": {"leave_out": []}}):
        run.update({**EARLIER, **without})
        RunDir(tmp_path).refuse_stale_checkpoint()
