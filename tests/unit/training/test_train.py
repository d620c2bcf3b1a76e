"""Training as a whole, on a tiny base: determinism, interruptions, the operating point."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from metadeploy._exact import nearest
from metadeploy.checkpoint.run_dir import RunDir
from metadeploy.errors import RunDirError
from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline
from metadeploy.reference.config import Quantization
from metadeploy.sidecar.spec import EncoderType, InjectFrom
from metadeploy.training.collect import collect
from metadeploy.training.records import Collected
from metadeploy.training.settings import CollectSettings, FitSettings, OperatingPoint, TrainSettings
from metadeploy.training.train import TrainCallbacks, discard_trained, finished_with, recalibrate, train
from metadeploy.training.trainer import Epoch, Trainer
from support.tiny_models import BYTE_VOCAB_SIZE, byte_tokenizer, draw_weights
from support.tiny_questions import collect_settings, write_base_and_questions
from tolerances import TINY_DOUBT_MAX_ABS

FIT = FitSettings(
    pretrain_epochs=1,
    epochs=3,
    batch_size=8,
    patience=5,
    lr=3e-3,
    dropout=0.1,
)
SETTINGS = TrainSettings(
    target_layers="all",
    cross_attn_layers="1-2",
    bottleneck_dim=16,
    enc_num_heads=4,
    refusal_text="I do not know.",
    fit=FIT,
    device="cpu",
)


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    base, questions = write_base_and_questions(folder)
    settings = collect_settings(base, questions)
    collect(RunDir(folder / "run", create=True), settings)
    return folder / "run"


@pytest.fixture
def run(collected: Path, tmp_path: Path) -> RunDir:
    """A run directory with collected questions."""
    path = tmp_path / "run"
    path.mkdir()
    (path / "run.json").write_bytes((collected / "run.json").read_bytes())
    (path / "collect").symlink_to(collected / "collect")
    return RunDir(path)


@pytest.fixture(scope="module")
def trained(collected: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an uninterrupted training."""
    path = tmp_path_factory.mktemp("trained")
    (path / "run.json").write_bytes((collected / "run.json").read_bytes())
    (path / "collect").symlink_to(collected / "collect")
    run = RunDir(path)
    train(run, SETTINGS)
    return files(run)


def files(run: RunDir) -> dict[str, bytes]:
    """Return the files that training wrote."""
    return {path.name: path.read_bytes() for path in (run.checkpoint, run.run_json, *run.train.iterdir())}


class StopError(Exception):
    """Something that ends the process without warning, as far as training can tell."""


def stop_at(name: str, done: int, error: type[BaseException]) -> TrainCallbacks:
    def stage(stage_name: str, at: int, _total: int) -> None:
        if (stage_name, at) == (name, done):
            raise error

    return TrainCallbacks(stage=stage)


def test_files_of_a_training(trained: dict[str, bytes]) -> None:
    assert trained.keys() == {"doubter_checkpoint.pt", "run.json", "curves.csv", "curves.png"}
    rows = list(csv.DictReader(trained["curves.csv"].decode().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert list(rows[0]) == [field.name for field in dataclasses.fields(Epoch)]
    assert trained["curves.png"].startswith(b"\x89PNG")
    manifest = json.loads(trained["run.json"])
    expected = {
        "target_layers": [0, 1, 2],
        "cross_attn_layers": [1, 2],
        "inject_from": "last_prompt_token",
        "refusal_text": "I do not know.",
    }
    assert expected.items() <= manifest.items()
    scores = [float(row["val_auroc"]) + float(row["val_auroc_within"]) for row in rows]
    assert scores[manifest["train"]["best_epoch"] - 1] == max(scores)
    assert manifest["train"]["fit"]["epochs"] == 3
    assert manifest["train"]["epochs_done"] == 3
    assert manifest["train"]["interrupted"] is False
    assert "collect" in manifest


def test_it_ends_when_patience_runs_out(run: RunDir) -> None:
    still = dataclasses.replace(FIT, pretrain_epochs=0, lr=1e-30, epochs=9, patience=2)  # every epoch is like the first
    summary = train(run, dataclasses.replace(SETTINGS, fit=still))
    assert (summary.best_epoch, len(summary.history)) == (1, 3)


def test_a_seed_decides_everything(run: RunDir, trained: dict[str, bytes]) -> None:
    train(run, SETTINGS)
    assert files(run) == trained
    discard_trained(run)
    train(run, dataclasses.replace(SETTINGS, fit=dataclasses.replace(FIT, seed=1)))
    assert files(run)["doubter_checkpoint.pt"] != trained["doubter_checkpoint.pt"]


@pytest.mark.parametrize(
    ("stage", "done"), [("lower blocks, val", 0), ("epoch 1", 2), ("epoch 2", 0), ("epoch 2", 3), ("epoch 3", 1)]
)
def test_a_killed_training_resumes(run: RunDir, trained: dict[str, bytes], stage: str, done: int) -> None:
    with pytest.raises(StopError):
        train(run, SETTINGS, callbacks=stop_at(stage, done, StopError))
    assert not run.checkpoint.exists()
    stages: list[str] = []
    resumed: list[int] = []
    report = TrainCallbacks(
        stage=lambda name, done, total: stages.append(name), resumed=lambda rows: resumed.append(len(rows))
    )
    train(RunDir(run.path), SETTINGS, callbacks=report)
    assert files(run) == trained
    assert "lower blocks, train" not in stages
    finished = int(stage[-1]) - 1 if stage.startswith("epoch") else 0
    assert resumed == ([finished] if finished else [])
    assert ("pre-train the encoder" in stages) == (finished == 0)
    assert f"epoch {finished}" not in stages


def test_control_c_keeps_the_best_so_far(run: RunDir, trained: dict[str, bytes]) -> None:
    summary = train(run, SETTINGS, callbacks=stop_at("epoch 3", 2, KeyboardInterrupt))
    assert summary.interrupted
    assert len(summary.history) == 2
    assert isinstance(Doubter.from_checkpoint(run.path), Doubter)
    assert json.loads(run.run_json.read_text())["train"]["interrupted"] is True
    assert finished_with(run, SETTINGS) is None
    train(RunDir(run.path), SETTINGS)
    assert files(run) == trained


def test_control_c_between_an_epoch_and_its_file(
    run: RunDir, trained: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(fitting: Trainer, *rest: Any) -> Epoch:
        run_epoch(fitting, *rest)
        raise KeyboardInterrupt

    run_epoch = Trainer.run_epoch
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_epoch", late)
        assert train(run, SETTINGS).interrupted
    resumed: list[int] = []
    train(RunDir(run.path), SETTINGS, callbacks=TrainCallbacks(resumed=lambda rows: resumed.append(len(rows))))
    assert resumed == [1]
    assert files(run) == trained


def test_control_c_before_there_is_anything_to_keep(run: RunDir, trained: dict[str, bytes]) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(run, SETTINGS, callbacks=stop_at("epoch 1", 1, KeyboardInterrupt))
    assert not run.checkpoint.exists()
    train(RunDir(run.path), SETTINGS)
    assert files(run) == trained


def test_other_settings_do_not_resume_it(run: RunDir) -> None:
    with pytest.raises(StopError):
        train(run, SETTINGS, callbacks=stop_at("epoch 2", 1, StopError))
    before = {path.name for path in run.train.iterdir()}
    for change in (
        {"bottleneck_dim": 32},
        {"refusal_text": "I have no answer to that."},
        {"fit": dataclasses.replace(FIT, lr=1e-4)},
    ):
        with pytest.raises(RunDirError, match="holds an interrupted training with other settings"):
            train(RunDir(run.path), dataclasses.replace(SETTINGS, **change))
    assert {path.name for path in run.train.iterdir()} == before
    # the operating point does not affect training
    train(RunDir(run.path), dataclasses.replace(SETTINGS, point=OperatingPoint(max_over_refusal=0.1), device="auto"))


def test_restart_deletes_what_training_wrote(run: RunDir, collected: Path) -> None:
    with pytest.raises(StopError):
        train(run, SETTINGS, callbacks=stop_at("epoch 2", 1, StopError))
    (run.train / "notes.txt").write_text("mine")
    before = {path.name for path in run.train.iterdir()}
    with pytest.raises(RunDirError, match="--ca-num-heads is 5"):
        train(run, dataclasses.replace(SETTINGS, ca_num_heads=5), restart=True)
    assert {path.name for path in run.train.iterdir()} == before
    discard_trained(run)
    assert [path.name for path in run.train.iterdir()] == ["notes.txt"]
    train(run, dataclasses.replace(SETTINGS, fit=dataclasses.replace(FIT, epochs=1)))
    discard_trained(run)
    assert not run.checkpoint.exists()
    assert json.loads(run.run_json.read_text()) == json.loads((collected / "run.json").read_text())


@pytest.mark.parametrize(
    ("encoder_type", "inject_from", "encoder_dtype"),
    [
        *((encoder, start, "float32") for encoder in get_args(EncoderType) for start in get_args(InjectFrom)),
        ("selective", "prompt", "float16"),
        ("transformer", "last_prompt_token", "bfloat16"),
    ],
)
def test_the_operating_point_holds_in_the_reference(
    run: RunDir, encoder_type: str, inject_from: str, encoder_dtype: str
) -> None:
    """Generation with the stored weights declines exactly the validation questions that training reported."""
    change: dict[str, Any] = {"encoder_type": encoder_type, "inject_from": inject_from, "encoder_dtype": encoder_dtype}
    point = OperatingPoint(max_over_refusal=None, target_coverage=0.5)
    summary = train(run, dataclasses.replace(SETTINGS, point=point, **change))
    records = Collected.read(run.collect, "val").records
    assert summary.val["coverage"] == nearest(0.5, len(records)) / len(records)

    pipe = MetaSpiderPipeline.from_pretrained(
        MetaSpiderConfig(model_name=run.manifest["model_name"], device="cpu", dtype="float32")
    )
    doubter = pipe.attach(Doubter.from_checkpoint(run.path))
    stored = torch.load(run.checkpoint, weights_only=True)["encoder_state"]
    assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, encoder_dtype)}
    assert (doubter.config.encoder_type, doubter.config.inject_from) == (encoder_type, inject_from)
    assert doubter.config.refusal_bias == pytest.approx(summary.bias)
    prompts = [pipe.tokenize(pipe.apply_chat_template(record.question.question)) for record in records]
    doubts = np.array([pipe.doubt(prompt) for prompt in prompts])
    right = np.array([record.correct for record in records])
    assert np.abs(doubts - 0.5).min() > TINY_DOUBT_MAX_ABS
    answered = doubts < 0.5
    assert answered.mean() == summary.val["coverage"]
    assert right[answered].mean() == summary.val["selective_accuracy"]
    assert (~answered)[right].mean() == summary.val["over_refusal"]
    refusal = doubter.config.refusal_token_ids
    assert refusal is not None
    for prompt, declined in zip(prompts, ~answered, strict=True):
        assert (pipe.generate_ids(prompt, 1, stop_ids=()) == [refusal[0]]) == declined


def test_training_learns_repeated_questions(run: RunDir) -> None:
    """With a few repeated questions, the wrapper must recognize those that the base gets right."""
    source = run.collect.resolve()
    run.collect.unlink()
    run.collect.mkdir()
    settings = dataclasses.replace(
        SETTINGS,
        fit=dataclasses.replace(
            FIT, pretrain_epochs=60, pretrain_lr=3e-3, folds=1, epochs=10, patience=10, dropout=0.0
        ),
    )
    for split in ("train", "val"):
        for suffix in ("jsonl", "safetensors"):
            (run.collect / f"{split}.{suffix}").write_bytes((source / f"train.{suffix}").read_bytes())
    summary = train(run, settings)
    best = summary.history[summary.best_epoch - 1]
    assert best.val_auroc > 0.95
    assert summary.history[-1].loss < 0.9 * summary.history[0].loss
    assert summary.history[-1].keeping < 0.5 * summary.history[0].keeping


def test_an_epoch_covers_a_proportion_of_the_declined(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    right = np.array([record.correct for record in Collected.read(run.collect, "train").records])
    seen: list[list[int]] = []
    weights = set()
    losses_of = Trainer._losses

    def watched(self: Trainer, lessons: Any, kept: Any, indices: Any, **options: Any) -> Any:
        if options.get("with_keeping"):  # an optimizer step, not a progress report for some questions
            seen.append(indices.tolist())
            weights.add(options["declined_weight"])
        return losses_of(self, lessons, kept, indices, **options)

    monkeypatch.setattr(Trainer, "_losses", watched)
    summary = train(run, dataclasses.replace(SETTINGS, fit=dataclasses.replace(FIT, refusal_share=0.4)))
    n_declined = math.ceil(0.4 * (~right).sum())
    steps = math.ceil((right.sum() + n_declined) / FIT.batch_size)
    assert len(summary.history) == 3
    assert len(seen) == 3 * steps
    epochs = [sorted(index for step in seen[at : at + steps] for index in step) for at in range(0, 3 * steps, steps)]
    assert epochs[0] != epochs[1]  # drawn again
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) == right.sum() + n_declined
        assert set(np.flatnonzero(right)) <= set(epoch)
    assert weights == {(~right).sum() / n_declined}


def test_a_finished_wrapper_is_recalibrated(run: RunDir, trained: dict[str, bytes]) -> None:
    assert finished_with(run, SETTINGS) is None
    train(run, SETTINGS)
    assert finished_with(run, SETTINGS) is True
    assert finished_with(run, dataclasses.replace(SETTINGS, refusal_text="No.")) is False
    assert finished_with(run, dataclasses.replace(SETTINGS, encoder_dtype="float16")) is False
    stages: list[str] = []
    moved = dataclasses.replace(SETTINGS, point=OperatingPoint(max_over_refusal=None, target_coverage=0.25))
    summary = recalibrate(run, moved, callbacks=TrainCallbacks(stage=lambda name, done, total: stages.append(name)))
    n_val = len(Collected.read(run.collect, "val").records)
    assert summary.val["coverage"] == pytest.approx(0.25, abs=0.5 / n_val)
    assert not any(name.startswith("epoch") for name in stages)
    before, after = torch.load(run.checkpoint, weights_only=True), files(run)
    assert before["refusal_bias"] == summary.bias
    assert after.keys() == trained.keys()
    assert after["curves.csv"] == trained["curves.csv"]
    recalibrate(RunDir(run.path), SETTINGS)
    assert files(run) == trained


def test_weights_beyond_float16_lose_no_training(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same training with another type resumes from its last epoch."""

    def huge(doubter: Doubter, activations: torch.Tensor) -> None:
        doubter.enc.layer_projectors[0][0].bias.data[0] = 1e5  # type: ignore[index,union-attr]

    monkeypatch.setattr("metadeploy.training.train.standardize", huge)
    with pytest.raises(RunDirError, match=r"beyond the range of float16 .*--encoder-dtype bfloat16"):
        train(run, dataclasses.replace(SETTINGS, encoder_dtype="float16"))
    assert not run.checkpoint.exists()
    stages: list[str] = []
    report = TrainCallbacks(stage=lambda name, done, total: stages.append(name))
    train(run, dataclasses.replace(SETTINGS, encoder_dtype="bfloat16"), callbacks=report)
    assert run.checkpoint.exists()
    assert not any(name.startswith("epoch") for name in stages)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantized_base(tmp_path: Path, collected: Path, quantization: Quantization) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra `quantized` is not installed")
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 3}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=BYTE_VOCAB_SIZE, **sizes))
    draw_weights(model)
    model.save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    run = RunDir(tmp_path / "run", create=True)
    collect(
        run,
        CollectSettings(
            base=str(tmp_path / "base"),
            questions=str(collected.parent / "questions.jsonl"),
            layers="all",
            quantization=quantization,
            device="cpu",
            max_new_tokens=4,
        ),
    )
    summary = train(
        run,
        dataclasses.replace(
            SETTINGS,
            point=OperatingPoint(max_over_refusal=None, target_coverage=0.5),
            fit=dataclasses.replace(FIT, epochs=1),
        ),
    )
    assert math.isfinite(summary.history[0].loss)


# -- refused trainings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_layers": "5", "cross_attn_layers": "x"}, "2 faults"),
        ({"ca_num_heads": 5}, "--ca-num-heads is 5, expected a divisor of --bottleneck-dim 16"),
        ({"encoder_type": "transformer", "enc_num_heads": 3}, "--enc-num-heads is 3"),
    ],
)
def test_wrappers_that_cannot_be(run: RunDir, change: dict[str, Any], message: str) -> None:
    with pytest.raises(RunDirError, match=message):
        train(run, dataclasses.replace(SETTINGS, **change))
    assert not run.train.exists()


def test_training_without_collected_questions(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"has no run.json, expected one \(hint: start with metadeploy collect\)"):
        RunDir(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(RunDirError, match="holds a JSON list, expected an object"):
        RunDir(tmp_path)
    (tmp_path / "run.json").write_text('{"model_name": "x"}')
    with pytest.raises(RunDirError, match=r"lacks num_layers, hidden_dim, collect \(hint: run metadeploy collect"):
        train(RunDir(tmp_path), SETTINGS)


def test_layers_that_were_not_collected(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Callable[..., Collected] = Collected.read

    def fewer(folder: Path, split: str) -> Collected:
        records = read(folder, split)
        return dataclasses.replace(records, activations=records.activations[:, 1:], layers=records.layers[1:])

    monkeypatch.setattr(Collected, "read", fewer)
    with pytest.raises(RunDirError, match=r"lack layers \[0\], expected some of \[1, 2\]"):
        train(run, SETTINGS)
