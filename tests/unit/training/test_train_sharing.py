"""Several trainings on the same collected questions, and trainings that leave out some categories."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from metadeploy.checkpoint.run_dir import RunDir
from metadeploy.data.question import Question
from metadeploy.errors import RunDirError
from metadeploy.training import train as training
from metadeploy.training.collect import collect
from metadeploy.training.examples import Example, compute_states
from metadeploy.training.records import Collected
from metadeploy.training.settings import FitSettings, TrainSettings
from metadeploy.training.targets import LabeledSplit
from metadeploy.training.train import link_collected, train
from metadeploy.training.trainer import Trainer
from support.tiny_questions import collect_settings, write_base_and_questions
from support.tiny_run import write_speaking_gguf

FIT = FitSettings(pretrain_epochs=1, epochs=1, batch_size=8)
SETTINGS = TrainSettings(target_layers="all", cross_attn_layers="1-2", bottleneck_dim=16, fit=FIT, device="cpu")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("shared")
    base, questions = write_base_and_questions(folder)
    run = RunDir(folder / "first", create=True)
    settings = collect_settings(base, questions)
    collect(run, settings)
    train(run, dataclasses.replace(SETTINGS, keep_cache=True))
    return run


def test_another_seed_reuses_the_cached_activations(
    first: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path / "second", create=True)
    link_collected(run, first)
    assert "train" not in run.manifest
    assert run.manifest["collect"] == first.manifest["collect"]
    monkeypatch.setattr(training, "compute_states", lambda *_args, **_options: pytest.fail("the base was run again"))
    other = train(run, dataclasses.replace(SETTINGS, fit=dataclasses.replace(FIT, seed=1)))
    one, two = torch.load(first.checkpoint, weights_only=True), torch.load(run.checkpoint, weights_only=True)
    name = "layer_projectors.0.1.weight"
    assert not torch.equal(one["encoder_state"][name], two["encoder_state"][name])
    assert len(other.history) == 1
    # without keep_cache the links are gone, and the first run's files are untouched
    assert not list(run.train.glob("kept-*"))
    assert len(list(first.train.glob("kept-*"))) == 2


def test_temporary_files_are_not_shared(first: RunDir, tmp_path: Path) -> None:
    """A temporary file of a killed or running run is not a collected file."""
    source = RunDir(tmp_path / "source", create=True)
    link_collected(source, first)
    (source.collect / ".train.jsonl.0123456789ab.tmp").mkdir()
    (source.collect / ".val.jsonl.0123456789ab.tmp").write_text("half")
    run = RunDir(tmp_path / "run", create=True)
    link_collected(run, source)
    assert sorted(path.name for path in run.collect.iterdir()) == sorted(path.name for path in first.collect.iterdir())


def test_a_base_that_was_replaced_is_not_trained_on(first: RunDir, tmp_path: Path) -> None:
    base = tmp_path / "base.gguf"
    shutil.copy(first.manifest["model_name"], base)
    run = RunDir(tmp_path / "run", create=True)
    link_collected(run, first)
    run.update({"model_name": str(base)})
    run.refuse_other_base()  # the same content in another place
    write_speaking_gguf(base, seed=4)
    with pytest.raises(
        RunDirError, match=r"the content of its base '.*' has changed since the questions were collected"
    ):
        train(run, SETTINGS)


def test_another_injection_start_does_not_use_the_cache(
    first: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path / "other", create=True)
    link_collected(run, first)
    calls = []
    monkeypatch.setattr(
        training, "compute_states", lambda *args, **options: calls.append(1) or compute_states(*args, **options)
    )
    train(run, dataclasses.replace(SETTINGS, inject_from="prompt"))
    assert len(calls) == 4  # for each split: a few examples to compare with the whole model, then all examples


def test_a_directory_with_other_questions_shares_none(first: RunDir, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "second", create=True)
    link_collected(run, first)
    link_collected(run, first)  # again: nothing happens
    run.update({"collect": {**run.manifest["collect"], "seed": 7}})
    with pytest.raises(
        RunDirError, match="has collected other questions or used other settings, expected a new folder"
    ):
        link_collected(run, first)


def test_questions_are_shared_when_all_are_there(first: RunDir, tmp_path: Path) -> None:
    source = RunDir(tmp_path / "cut off", create=True)
    link_collected(source, first)
    last = source.collect / "test.jsonl"
    last.rename(tmp_path / "test.jsonl")
    run = RunDir(tmp_path / "second", create=True)
    with pytest.raises(RunDirError, match="its questions are not all collected"):
        link_collected(run, source)
    (tmp_path / "test.jsonl").rename(last)
    link_collected(run, source)  # now it succeeds
    assert len(Collected.read(run.collect, "test").records) == len(Collected.read(first.collect, "test").records)


def test_left_out_categories_are_never_seen(first: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    category = Collected.read(first.collect, "train").records[0].question.category
    run = RunDir(tmp_path / "left", create=True)
    link_collected(run, first)
    lessons_seen: list[LabeledSplit] = []
    fitting = training.Trainer

    def spy(*args: Any, train: Any, val: Any, **options: Any) -> Trainer:
        lessons_seen.extend((train[0], val[0]))
        assert [len(lessons.examples) for lessons, _ in (train, val)] == [len(kept) for _, kept in (train, val)]
        return fitting(*args, train=train, val=val, **options)

    monkeypatch.setattr(training, "Trainer", spy)
    # the cached activations are those of all questions, and shared
    monkeypatch.setattr(training, "compute_states", lambda *_args, **_options: pytest.fail("the base was run again"))
    train(run, dataclasses.replace(SETTINGS, leave_out=(category,)))
    assert len(lessons_seen) == 2
    assert all(category not in lessons.categories for lessons in lessons_seen)
    assert run.manifest["train"]["leave_out"] == [category]


def test_an_unknown_category_is_named_with_those_there_are(first: RunDir, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "unknown", create=True)
    link_collected(run, first)
    with pytest.raises(RunDirError, match="have no category nonsense, expected some of"):
        train(run, dataclasses.replace(SETTINGS, leave_out=("nonsense",)))


def test_a_category_that_only_one_split_has_can_be_left_out(first: RunDir, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "one", create=True)
    link_collected(run, first)
    train_split = Collected.read(run.collect, "train")
    *others, last = train_split.records  # the first ones are compared with the whole model
    rare = dataclasses.replace(last, question=Question("?", ("x",), "rare"))
    Collected.write(run.collect, "train", [*others, rare], train_split.activations, train_split.layers)
    train(run, dataclasses.replace(SETTINGS, leave_out=("rare",)))


def test_lessons_stay_aligned(first: RunDir) -> None:
    whole = Collected.read(first.collect, "train")
    category = whole.records[0].question.category
    rows = [i for i, record in enumerate(whole.records) if record.question.category != category]
    assert whole.excluding((category,)) == rows
    examples = [
        Example(prompt_ids=(i,), target_ids=(i,), declines=False, doubt=0.0, n_own=i) for i in range(len(whole.records))
    ]
    lessons = LabeledSplit(examples, whole.activations, whole.records).at(rows)
    assert [example.n_own for example in lessons.examples] == rows
    assert lessons.records == [whole.records[i] for i in rows]
    assert torch.equal(lessons.activations, whole.activations[rows])
