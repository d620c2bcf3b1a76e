"""`metadeploy train`: train a wrapper on collected data and calibrate its operating point."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

from metadeploy._files import write_atomically
from metadeploy.batched.prefix import SharedPrefix
from metadeploy.batched.upper_blocks import UpperBlocks
from metadeploy.checkpoint.run_dir import SPLITS, RunDir
from metadeploy.errors import RunDirError
from metadeploy.reference.base import FrozenBase
from metadeploy.reference.config import MetaSpiderConfig
from metadeploy.reference.doubter import Doubter
from metadeploy.reference.loading import load_base
from metadeploy.training.activation_cache import load_states, save_states
from metadeploy.training.calibration import calibrate
from metadeploy.training.examples import CachedStates, Example, compute_states
from metadeploy.training.initialization import new_wrapper, standardize
from metadeploy.training.plan import as_json, cache_fingerprint, end_of_turn, fingerprint, wrapper_config
from metadeploy.training.pretraining import cross_fit_labels, init_from_probe, pretrain
from metadeploy.training.probe import check_cut
from metadeploy.training.records import Collected, check_categories
from metadeploy.training.settings import TrainSettings
from metadeploy.training.targets import LabeledSplit, build_targets
from metadeploy.training.trainer import Epoch, Trainer

__all__ = [
    "TrainCallbacks",
    "TrainSettings",
    "Trained",
    "discard_trained",
    "finished_with",
    "link_collected",
    "recalibrate",
    "train",
]

_STATE: Final = "state.pt"
_CURVES: Final = "curves.csv"
#: Number of examples of each split on which the upper blocks are compared with the whole model.
_N_PROBED: Final = 2
#: Keys of run.json that training writes.
_MANIFEST_KEYS: Final = (
    "encoder_type",
    "target_layers",
    "cross_attn_layers",
    "inject_from",
    "refusal_text",
    "refusal_token_ids",
    "refusal_bias",
    "train",
)


@dataclass
class TrainCallbacks:
    """Functions that training calls to report its progress. Each one may be replaced.

    Attributes:
        stage: called with the name of a stage, the number of steps that are done, and of all steps.
        resumed: called with the earlier epochs if an interrupted training continues.
        epoch: called with each finished epoch.
    """

    stage: Callable[[str, int, int], None] = lambda name, done, total: None
    resumed: Callable[[Sequence[Epoch]], None] = lambda history: None
    epoch: Callable[[Epoch], None] = lambda row: None


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        doubter: the wrapper as written.
        history: all epochs.
        best_epoch: number of the epoch whose weights were written.
        interrupted: whether Ctrl-C ended it early.
        bias: the calibrated refusal bias.
        val: coverage, selective accuracy and over-refusal on the validation questions at the operating point.
    """

    doubter: Doubter
    history: list[Epoch]
    best_epoch: int
    interrupted: bool
    bias: float
    val: dict[str, float | None]


def train(
    run: RunDir, settings: TrainSettings, *, restart: bool = False, callbacks: TrainCallbacks | None = None
) -> Trained:
    """Train a wrapper on collected data, and write it.

    This writes doubter_checkpoint.pt, train/curves.csv, train/curves.png and run.json. An interrupted run continues
    after its last complete epoch. Ctrl-C ends the training and keeps the best epoch so far.

    Args:
        run: a run directory with collected questions.
        settings: what to train.
        restart: delete an earlier training first; nothing is deleted if the settings do not fit the collected data.
        callbacks: functions that report the progress.

    Returns:
        The wrapper and its training history.

    Raises:
        RunDirError: nothing was collected, or the directory holds the state of another training.
        ModelLoadError: the base cannot be loaded.
        KeyboardInterrupt: Ctrl-C before the end of the first epoch.
    """
    callbacks = callbacks or TrainCallbacks()
    setup = _TrainingSetup(run, settings, callbacks)
    if restart:
        discard_trained(run)
    state = _read_state(run, setup.fingerprint)
    setup.load()
    train_states, val_states = setup.states("train"), setup.states("val")

    torch.manual_seed(settings.fit.seed)
    doubter = new_wrapper(setup.config, num_blocks=settings.encoder_blocks)
    trainer = setup.trainer(doubter, train_states, val_states)
    if state is None:
        trainer.estimate_bias()
        _initialize(trainer, setup.splits["train"], settings, callbacks)
    else:
        trainer.load_state(state["fitting"])
        callbacks.resumed(trainer.history)
    interrupted = _run_epochs(run, trainer, setup.fingerprint, callbacks)
    _write_curves(run, trainer.history)
    _plot_curves(run, trainer.history)
    return _finish(run, settings, trainer, (setup.splits["val"], val_states), setup.fingerprint, interrupted)


def finished_with(run: RunDir, settings: TrainSettings) -> bool | None:
    """Return whether a finished training had these settings; None if no training is finished.

    The operating point does not count.
    """
    trained = run.manifest.get("train")
    if trained is None or not run.checkpoint.exists() or (run.train / _STATE).exists():
        return None
    same_training: bool = trained.get("fingerprint") == fingerprint(run, settings)
    return same_training and trained.get("encoder_dtype", "float32") == settings.encoder_dtype


def recalibrate(run: RunDir, settings: TrainSettings, *, callbacks: TrainCallbacks | None = None) -> Trained:
    """Calibrate a finished wrapper for another operating point, without training it again.

    Args:
        run: a run directory for which `finished_with` is True.
        settings: the settings of the training, with any operating point.
        callbacks: functions that report the progress.

    Returns:
        The same as `train`, which also writes the same files.
    """
    setup = _TrainingSetup(run, settings, callbacks or TrainCallbacks())
    setup.load()
    doubter = Doubter.from_checkpoint(run.checkpoint)
    assert isinstance(doubter, Doubter)  # format 1.1 states its layers
    states = setup.states("val")
    trainer = setup.trainer(doubter, [], states)
    trainer.best = {name: tensor.clone() for name, tensor in doubter.state_dict().items()}
    with (run.train / _CURVES).open(encoding="utf-8", newline="") as file:
        trainer.history = [_parse_epoch(row) for row in csv.DictReader(file)]
    return _finish(run, settings, trainer, (setup.splits["val"], states), setup.fingerprint, interrupted=False)


def link_collected(run: RunDir, source: RunDir) -> None:
    """Link the collected data and cached states of another run directory into a new one.

    Args:
        run: the new run directory. If it is already linked to ``source``, nothing happens.
        source: a run directory with collected questions.

    Raises:
        RunDirError: ``run`` has its own questions, or those of ``source`` are not or not completely collected.
    """
    source.require("model_name", "num_layers", "hidden_dim", "collect", made_by="collect")
    if not all((source.collect / f"{name}.jsonl").exists() for name in SPLITS):
        raise RunDirError(
            f"run directory '{source.path}': its questions are not all collected, expected those of "
            f"{', '.join(SPLITS)} (hint: let metadeploy collect finish first)"
        )
    if "collect" in run.manifest:
        if run.manifest["collect"] == source.manifest["collect"]:
            return
        raise RunDirError(
            f"run directory '{run.path}': has collected other questions or used other settings, expected a new folder "
            f"to share those of '{source.path}' (hint: to continue with its own questions, omit --collected)"
        )
    paths = (*source.collect.glob("*.*"), *source.train.glob("kept-*.safetensors"))
    files = [file for file in paths if not file.name.startswith(".")]  # without temporary files
    for file in files:
        target = run.path / file.relative_to(source.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # an earlier call that was interrupted may have left it
        try:
            os.link(file, target)
        except OSError:  # another file system, or one that has no links
            shutil.copy2(file, target)
    run.update({key: value for key, value in source.manifest.items() if key not in _MANIFEST_KEYS})


def discard_trained(run: RunDir) -> None:
    """Delete the files and manifest entries that `train` wrote into a run directory, and nothing else."""
    run.checkpoint.unlink(missing_ok=True)
    for name in (_STATE, _CURVES, "curves.png"):
        (run.train / name).unlink(missing_ok=True)
    for file in run.train.glob("kept-*.safetensors"):
        file.unlink()
    if run.manifest.keys() & set(_MANIFEST_KEYS):
        run.update(dict.fromkeys(_MANIFEST_KEYS))


class _TrainingSetup:
    """The inputs of a training: the base, the labeled splits and the cached states.

    Attributes:
        config: config of the wrapper to train.
        fingerprint: equal for trainings with the same inputs and settings.
        splits: labeled splits by name, without the categories that are left out.
    """

    def __init__(self, run: RunDir, settings: TrainSettings, callbacks: TrainCallbacks) -> None:
        """Read and check the collected data; `load` does the slow work."""
        run.require("model_name", "num_layers", "hidden_dim", "collect", made_by="collect")
        self._run, self._settings, self._callbacks = run, settings, callbacks
        self._collected = {name: Collected.read(run.collect, name) for name in ("train", "val")}
        check_categories(self._collected.values(), settings.leave_out)
        self._included = {name: collected.excluding(settings.leave_out) for name, collected in self._collected.items()}
        self.config = wrapper_config(run, settings)
        self.fingerprint = fingerprint(run, settings)
        self._all_splits: dict[str, LabeledSplit] = {}
        self.splits: dict[str, LabeledSplit] = {}

    def load(self) -> None:
        """Load the base and build the targets."""
        run, settings = self._run, self._settings
        self._callbacks.stage("load the base", 0, 1)
        run.refuse_other_base()
        model, tokenizer = load_base(
            MetaSpiderConfig(
                model_name=run.manifest["model_name"],
                device=settings.device,
                dtype=run.manifest["dtype"],
                quantization=run.manifest.get("quantization"),
            )
        )
        _keep_gradients(model)
        self._base = FrozenBase(model)
        self._upper = UpperBlocks(self._base, min(self.config.cross_attn_layers) + 1)
        self._callbacks.stage("load the base", 1, 1)
        refusal_ids: list[int] = tokenizer(settings.refusal_text, add_special_tokens=False)["input_ids"]
        self.config = dataclasses.replace(self.config, refusal_token_ids=tuple(refusal_ids))
        self._all_splits = {
            name: build_targets(
                collected,
                tokenizer,
                target_layers=self.config.target_layers,
                refusal_ids=refusal_ids,
                end_of_turn=end_of_turn(self._base, tokenizer, self.config),
                answer_suffix=self.config.answer_suffix,
                chat_template_kwargs=dict(self.config.chat_template_kwargs),
                self_correction=settings.self_correction if name == "train" else 0.0,
                seed=settings.fit.seed,
            )
            for name, collected in self._collected.items()
        }
        self.splits = {name: collected.at(self._included[name]) for name, collected in self._all_splits.items()}
        prompts = [example.prompt_ids for split in self._all_splits.values() for example in split.examples]
        from_prompt = self.config.inject_from == "prompt"
        self._prefix = SharedPrefix.none() if from_prompt else SharedPrefix.of(self._base, prompts)

    def states(self, split: str) -> list[CachedStates]:
        """Return the cached states of a split, from the file of an earlier run or computed now."""
        path = self._run.train / f"kept-{split}.safetensors"
        # also for the categories that are left out, so that another training can use the file
        examples = self._all_splits[split].examples
        states_fingerprint = cache_fingerprint(self._run, self._settings)
        states = load_states(path, states_fingerprint)
        probe = examples[:_N_PROBED]
        check_cut(
            self._upper, probe, self._compute_states(probe) if states is None else states[:_N_PROBED], self._prefix
        )
        if states is None:
            stage = f"lower blocks, {split}"
            self._callbacks.stage(stage, 0, len(examples))
            states = self._compute_states(examples, functools.partial(self._callbacks.stage, stage))
            save_states(path, states, states_fingerprint)
        return [states[i] for i in self._included[split]]

    def _compute_states(
        self, examples: Sequence[Example], progress: Callable[[int, int], None] | None = None
    ) -> list[CachedStates]:
        return compute_states(
            self._base,
            examples,
            first=self._upper.first,
            inject_from=self.config.inject_from,
            prefix=self._prefix,
            progress=progress,
        )

    def trainer(self, doubter: Doubter, train_states: list[CachedStates], val_states: list[CachedStates]) -> Trainer:
        """Return a trainer for a wrapper."""
        assert self.config.refusal_token_ids
        return Trainer(
            self._upper,
            doubter,
            self._settings.fit,
            train=(self.splits["train"], train_states),
            val=(self.splits["val"], val_states),
            prefix=self._prefix,
            refusal_token=self.config.refusal_token_ids[0],
        )


def _initialize(trainer: Trainer, split: LabeledSplit, settings: TrainSettings, callbacks: TrainCallbacks) -> None:
    """Compute the soft labels, pretrain the encoder, and initialize the wrapper from it."""
    doubter, fit = trainer.doubter, settings.fit
    standardize(doubter, split.activations)
    if not fit.pretrain_epochs:
        return

    def new_doubter() -> Doubter:
        return new_wrapper(doubter.config, num_blocks=settings.encoder_blocks).to(next(doubter.parameters()).device)

    if fit.folds > 1:
        step = functools.partial(callbacks.stage, "cross-fit the labels")
        split = split.with_doubts(cross_fit_labels(new_doubter, split, fit, progress=step))
        trainer.set_soft_labels(split.doubts)
    callbacks.stage("pre-train the encoder", 0, 1)
    init_from_probe(trainer, pretrain(doubter, split, fit).direction)
    callbacks.stage("pre-train the encoder", 1, 1)


def _run_epochs(run: RunDir, trainer: Trainer, fingerprint: str, callbacks: TrainCallbacks) -> bool:
    """Run epochs until the training is over; return True if Ctrl-C ended it."""
    n_saved = len(trainer.history)
    try:
        while not trainer.is_over:
            step = functools.partial(callbacks.stage, f"epoch {len(trainer.history) + 1}")
            step(0, trainer.n_steps)
            row = trainer.run_epoch(step)
            _write_state(run, trainer, fingerprint)
            n_saved += 1
            _write_curves(run, trainer.history)
            callbacks.epoch(row)
    except KeyboardInterrupt:
        if not trainer.history:
            raise
        if len(trainer.history) > n_saved:  # Ctrl-C came after the epoch and before its state was written
            _write_state(run, trainer, fingerprint)
        return True
    return False


def _finish(
    run: RunDir,
    settings: TrainSettings,
    trainer: Trainer,
    val: tuple[LabeledSplit, list[CachedStates]],
    fingerprint: str,
    interrupted: bool,
) -> Trained:
    """Load the best epoch, calibrate it with the weights as stored, and write all files."""
    doubter = trainer.doubter
    doubter.load_state_dict(trainer.best)
    # round the weights as the file stores them: the cross-attention in bfloat16, as in the framework's files
    doubter.ca.to(torch.bfloat16).to(torch.float32)
    doubter.enc.to(getattr(torch, settings.encoder_dtype)).to(torch.float32)
    for name, weights in doubter.enc.state_dict().items():
        if not weights.isfinite().all():
            raise RunDirError(
                f"run directory '{run.path}': the trained encoder's {name} has values beyond the range of "
                f"{settings.encoder_dtype} (hint: the same command with --encoder-dtype bfloat16 trains nothing again)"
            )
    margins, _ = trainer.margins(*val)
    point = calibrate(margins, val[0].base_correct, settings.point)
    doubter.config = dataclasses.replace(doubter.config, refusal_bias=point.bias)
    run.update({"refusal_bias": None})  # so that the two files never contradict each other, even after a kill
    doubter.save_checkpoint(run.checkpoint, encoder_dtype=settings.encoder_dtype)
    config = doubter.config
    run.update(
        {
            "encoder_type": config.encoder_type,
            "target_layers": list(config.target_layers),
            "cross_attn_layers": list(config.cross_attn_layers),
            "inject_from": config.inject_from,
            "refusal_text": config.refusal_text,
            "refusal_token_ids": list(config.refusal_token_ids or ()),
            "refusal_bias": config.refusal_bias,
            "train": {
                **as_json(settings),
                "best_epoch": trainer.best_epoch,
                "epochs_done": len(trainer.history),
                "interrupted": interrupted,
                "val": point.summary(),
                "fingerprint": fingerprint,
            },
        }
    )
    if trainer.is_over:
        (run.train / _STATE).unlink(missing_ok=True)
        if not settings.keep_cache:
            for file in run.train.glob("kept-*.safetensors"):
                file.unlink()
    return Trained(
        doubter.requires_grad_(False).eval(),
        trainer.history,
        trainer.best_epoch,
        interrupted,
        point.bias,
        point.summary(),
    )


def _keep_gradients(model: Any) -> None:
    """Stop bitsandbytes from packing 4-bit weights for inference on some CPUs: packed weights have no gradient."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _write_state(run: RunDir, trainer: Trainer, fingerprint: str) -> None:
    buffer = io.BytesIO()
    torch.save({"fingerprint": fingerprint, "fitting": trainer.state()}, buffer)
    write_atomically(run.train / _STATE, buffer.getvalue())


def _read_state(run: RunDir, fingerprint: str) -> dict[str, Any] | None:
    path = run.train / _STATE
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    if state["fingerprint"] != fingerprint:
        raise RunDirError(
            f"run directory '{run.path}': holds an interrupted training with other settings or questions (hint: use "
            "the same ones to continue, or --restart to start again)"
        )
    return state


def _plot_curves(run: RunDir, history: Sequence[Epoch]) -> None:
    from metadeploy import plots

    rows = [{**asdict(row), "val_loss": row.val_decision} for row in history]
    plots.training_curves(rows, run.train / "curves.png")


def _parse_epoch(row: Mapping[str, str]) -> Epoch:
    """Parse a row of the curves file."""
    numbers = {key: float(value) for key, value in row.items() if key != "epoch"}
    return Epoch(epoch=int(row["epoch"]), **numbers)


def _write_curves(run: RunDir, history: Sequence[Epoch]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Epoch)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(row).items()} for row in history)
    write_atomically(run.train / _CURVES, text.getvalue())
