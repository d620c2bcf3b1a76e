"""`metadeploy train`: from what was collected to a trained wrapper and its calibrated operating point."""

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
from metadeploy.training.activation_cache import load_kept, save_kept
from metadeploy.training.calibration import calibrate
from metadeploy.training.examples import Example, Kept, keep
from metadeploy.training.initialization import new_wrapper, standardise
from metadeploy.training.plan import as_json, end_of_turn, fingerprint, kept_fingerprint, wrapper_config
from metadeploy.training.pretraining import aim, pretrain, softened
from metadeploy.training.probe import check_cut
from metadeploy.training.records import Collected, check_categories
from metadeploy.training.settings import TrainSettings
from metadeploy.training.targets import Lessons, make_lessons
from metadeploy.training.trainer import Epoch, Fitting

__all__ = ["Report", "TrainSettings", "Trained", "discard_trained", "finished_with", "recalibrate", "train"]

_STATE: Final = "state.pt"
_CURVES: Final = "curves.csv"
#: Lessons of each split on which the upper blocks are compared with the whole model.
_PROBED: Final = 2
#: Keys of run.json that are training's.
_WRITTEN: Final = (
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
class Report:
    """What to tell while training goes on; each function may be replaced.

    Attributes:
        stage: called with a stage's name, steps done and in all.
        resumed: called with the epochs of a training that was cut off and now goes on.
        epoch: called with each finished epoch.
    """

    stage: Callable[[str, int, int], None] = lambda name, done, total: None
    resumed: Callable[[Sequence[Epoch]], None] = lambda history: None
    epoch: Callable[[Epoch], None] = lambda row: None


@dataclass(frozen=True)
class Trained:
    """What training came to.

    Attributes:
        doubter: the wrapper as written.
        history: every epoch.
        best_epoch: the one that was kept.
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


def train(run: RunDir, settings: TrainSettings, *, restart: bool = False, report: Report | None = None) -> Trained:
    """Train a wrapper on what was collected, and write it.

    A run that was cut off goes on after its last whole epoch. Ctrl-C ends training and keeps the best epoch so far.

    Args:
        run: a run directory with collected questions.
        settings: what to train.
        restart: delete what was trained there before; nothing is, where the settings do not fit what was collected.
        report: told what goes on.

    Returns:
        The wrapper and how it went. Written are doubter_checkpoint.pt, train/curves.csv and .png, and run.json.

    Raises:
        RunDirError: nothing was collected, or the directory holds the state of another training.
        ModelLoadError: the base cannot be loaded.
        KeyboardInterrupt: Ctrl-C before the first epoch was done.
    """
    report = report or Report()
    desk = _Desk(run, settings, report)
    if restart:
        discard_trained(run)
    state = _read_state(run, desk.fingerprint)
    desk.open()
    train_kept, val_kept = desk.kept("train"), desk.kept("val")

    torch.manual_seed(settings.fit.seed)
    doubter = new_wrapper(desk.config, num_blocks=settings.encoder_blocks)
    fitting = desk.fitting(doubter, train_kept, val_kept)
    if state is None:
        fitting.begin()
        _begin(fitting, desk.lessons["train"], settings, report)
    else:
        fitting.load_state(state["fitting"])
        report.resumed(fitting.history)
    interrupted = _fit(run, fitting, desk.fingerprint, report)
    _write_curves(run, fitting.history)
    _draw_curves(run, fitting.history)
    return _finish(run, settings, fitting, (desk.lessons["val"], val_kept), desk.fingerprint, interrupted)


def finished_with(run: RunDir, settings: TrainSettings) -> bool | None:
    """Whether a finished training had these settings, the operating point left out; None where none is finished."""
    trained = run.manifest.get("train")
    if trained is None or not run.checkpoint.exists() or (run.train / _STATE).exists():
        return None
    same_training: bool = trained.get("fingerprint") == fingerprint(run, settings)
    return same_training and trained.get("encoder_dtype", "float32") == settings.encoder_dtype


def recalibrate(run: RunDir, settings: TrainSettings, *, report: Report | None = None) -> Trained:
    """Move the operating point of a wrapper whose training is finished; nothing is learnt.

    Args:
        run: a run directory for which `finished_with` is True.
        settings: as trained, with any operating point.
        report: told what goes on.

    Returns:
        As `train`; the same files are written.
    """
    desk = _Desk(run, settings, report or Report())
    desk.open()
    doubter = Doubter.from_checkpoint(run.checkpoint)
    assert isinstance(doubter, Doubter)  # format 1.1 says its layers
    kept = desk.kept("val")
    fitting = desk.fitting(doubter, [], kept)
    fitting.best = {name: tensor.clone() for name, tensor in doubter.state_dict().items()}
    with (run.train / _CURVES).open(encoding="utf-8", newline="") as file:
        fitting.history = [_epoch(row) for row in csv.DictReader(file)]
    return _finish(run, settings, fitting, (desk.lessons["val"], kept), desk.fingerprint, interrupted=False)


def share_collected(run: RunDir, source: RunDir) -> None:
    """Let a new run directory have what another one collected, and what it kept of the base's work; both are links.

    Args:
        run: the new one.
        source: one whose questions are collected. Where ``run`` shares them already, nothing happens.

    Raises:
        RunDirError: ``run`` has other questions of its own, or ``source`` has none, or not all of them yet.
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
            f"run directory '{run.path}': has collected other questions, or otherwise, expected a new folder to share "
            f"those of '{source.path}' with (hint: leave --collected out to go on with its own)"
        )
    found = (*source.collect.glob("*.*"), *source.train.glob("kept-*.safetensors"))
    files = [file for file in found if not file.name.startswith(".")]  # without temporary files
    for file in files:
        target = run.path / file.relative_to(source.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # of a sharing that was cut off
        try:
            os.link(file, target)
        except OSError:  # another file system, or one without links
            shutil.copy2(file, target)
    run.update({key: value for key, value in source.manifest.items() if key not in _WRITTEN})


def discard_trained(run: RunDir) -> None:
    """Delete what `train` wrote into a run directory, and nothing else."""
    run.checkpoint.unlink(missing_ok=True)
    for name in (_STATE, _CURVES, "curves.png"):
        (run.train / name).unlink(missing_ok=True)
    for kept in run.train.glob("kept-*.safetensors"):
        kept.unlink()
    if run.manifest.keys() & set(_WRITTEN):
        run.update(dict.fromkeys(_WRITTEN))


class _Desk:
    """What lies ready for a training: the base, the lessons, and what of the base's work is kept.

    Attributes:
        config: the wrapper to be.
        fingerprint: says whether two trainings are the same.
        lessons: by split, without those that are left out.
    """

    def __init__(self, run: RunDir, settings: TrainSettings, report: Report) -> None:
        """Check that there is something to train on; nothing heavy happens before `open`."""
        run.require("model_name", "num_layers", "hidden_dim", "collect", made_by="collect")
        self._run, self._settings, self._report = run, settings, report
        self._collected = {name: Collected.read(run.collect, name) for name in ("train", "val")}
        check_categories(self._collected.values(), settings.leave_out)
        self._shown = {name: found.others(settings.leave_out) for name, found in self._collected.items()}
        self.config = wrapper_config(run, settings)
        self.fingerprint = fingerprint(run, settings)
        self._all_lessons: dict[str, Lessons] = {}
        self.lessons: dict[str, Lessons] = {}

    def open(self) -> None:
        """Load the base and make the lessons."""
        run, settings = self._run, self._settings
        self._report.stage("load the base", 0, 1)
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
        self._report.stage("load the base", 1, 1)
        refusal_ids: list[int] = tokenizer(settings.refusal_text, add_special_tokens=False)["input_ids"]
        self.config = dataclasses.replace(self.config, refusal_token_ids=tuple(refusal_ids))
        self._all_lessons = {
            name: make_lessons(
                found,
                tokenizer,
                target_layers=self.config.target_layers,
                refusal_ids=refusal_ids,
                end_of_turn=end_of_turn(self._base, tokenizer, self.config),
                answer_suffix=self.config.answer_suffix,
                chat_template_kwargs=dict(self.config.chat_template_kwargs),
                self_correction=settings.self_correction if name == "train" else 0.0,
                seed=settings.fit.seed,
            )
            for name, found in self._collected.items()
        }
        self.lessons = {name: found.at(self._shown[name]) for name, found in self._all_lessons.items()}
        prompts = [example.prompt_ids for each in self._all_lessons.values() for example in each.examples]
        from_prompt = self.config.inject_from == "prompt"
        self._prefix = SharedPrefix.none() if from_prompt else SharedPrefix.of(self._base, prompts)

    def kept(self, split: str) -> list[Kept]:
        """The kept parts of a split, from the file that an interrupted run left or computed now."""
        path = self._run.train / f"kept-{split}.safetensors"
        # of what is left out as well: so another training can share the file
        examples = self._all_lessons[split].examples
        shared = kept_fingerprint(self._run, self._settings)
        found = load_kept(path, shared)
        probe = examples[:_PROBED]
        check_cut(self._upper, probe, self._keep(probe) if found is None else found[:_PROBED], self._prefix)
        if found is None:
            stage = f"lower blocks, {split}"
            self._report.stage(stage, 0, len(examples))
            found = self._keep(examples, functools.partial(self._report.stage, stage))
            save_kept(path, found, shared)
        return [found[i] for i in self._shown[split]]

    def _keep(self, examples: Sequence[Example], progress: Callable[[int, int], None] | None = None) -> list[Kept]:
        return keep(
            self._base,
            examples,
            first=self._upper.first,
            inject_from=self.config.inject_from,
            prefix=self._prefix,
            progress=progress,
        )

    def fitting(self, doubter: Doubter, train_kept: list[Kept], val_kept: list[Kept]) -> Fitting:
        """A wrapper on its way."""
        assert self.config.refusal_token_ids
        return Fitting(
            self._upper,
            doubter,
            self._settings.fit,
            train=(self.lessons["train"], train_kept),
            val=(self.lessons["val"], val_kept),
            prefix=self._prefix,
            refusal_token=self.config.refusal_token_ids[0],
        )


def _begin(fitting: Fitting, lessons: Lessons, settings: TrainSettings, report: Report) -> None:
    """What comes before the base takes part: how much to doubt each question, and an encoder that knows some of it."""
    doubter, fit = fitting.doubter, settings.fit
    standardise(doubter, lessons.activations)
    if not fit.pretrain_epochs:
        return

    def fresh() -> Doubter:
        return new_wrapper(doubter.config, num_blocks=settings.encoder_blocks).to(next(doubter.parameters()).device)

    if fit.folds > 1:
        step = functools.partial(report.stage, "second opinions on the questions")
        lessons = lessons.doubted(softened(fresh, lessons, fit, progress=step))
        fitting.teach(lessons.doubts)
    report.stage("pre-train the encoder", 0, 1)
    aim(fitting, pretrain(doubter, lessons, fit).direction)
    report.stage("pre-train the encoder", 1, 1)


def _fit(run: RunDir, fitting: Fitting, fingerprint: str, report: Report) -> bool:
    """Run epochs until it is over; True where Ctrl-C ended it."""
    n_saved = len(fitting.history)
    try:
        while not fitting.is_over:
            step = functools.partial(report.stage, f"epoch {len(fitting.history) + 1}")
            step(0, fitting.n_steps)
            row = fitting.run_epoch(step)
            _write_state(run, fitting, fingerprint)
            n_saved += 1
            _write_curves(run, fitting.history)
            report.epoch(row)
    except KeyboardInterrupt:
        if not fitting.history:
            raise
        if len(fitting.history) > n_saved:  # it came between the epoch's end and its file
            _write_state(run, fitting, fingerprint)
        return True
    return False


def _finish(
    run: RunDir,
    settings: TrainSettings,
    fitting: Fitting,
    val: tuple[Lessons, list[Kept]],
    fingerprint: str,
    interrupted: bool,
) -> Trained:
    """Take the best epoch, calibrate it as it will be stored, and write everything."""
    doubter = fitting.doubter
    doubter.load_state_dict(fitting.best)
    # calibrate the weights as the file has them: the cross-attention is in bfloat16, as in the framework's files
    doubter.ca.to(torch.bfloat16).to(torch.float32)
    doubter.enc.to(getattr(torch, settings.encoder_dtype)).to(torch.float32)
    for name, weights in doubter.enc.state_dict().items():
        if not weights.isfinite().all():
            raise RunDirError(
                f"run directory '{run.path}': the trained encoder's {name} has values beyond the range of "
                f"{settings.encoder_dtype} (hint: the same command with --encoder-dtype bfloat16 trains nothing again)"
            )
    margins, _ = fitting.margins(*val)
    point = calibrate(margins, val[0].base_correct, settings.point)
    doubter.config = dataclasses.replace(doubter.config, refusal_bias=point.bias)
    run.update({"refusal_bias": None})  # killed here or below, the two files do not contradict each other
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
                "best_epoch": fitting.best_epoch,
                "epochs_done": len(fitting.history),
                "interrupted": interrupted,
                "val": point.summary(),
                "fingerprint": fingerprint,
            },
        }
    )
    if fitting.is_over:
        (run.train / _STATE).unlink(missing_ok=True)
        if not settings.keep_cache:
            for kept in run.train.glob("kept-*.safetensors"):
                kept.unlink()
    return Trained(
        doubter.requires_grad_(False).eval(),
        fitting.history,
        fitting.best_epoch,
        interrupted,
        point.bias,
        point.summary(),
    )


def _keep_gradients(model: Any) -> None:
    """Keep bitsandbytes from packing 4-bit weights for inference, as it does on some CPUs: that has no gradient."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _write_state(run: RunDir, fitting: Fitting, fingerprint: str) -> None:
    buffer = io.BytesIO()
    torch.save({"fingerprint": fingerprint, "fitting": fitting.state()}, buffer)
    write_atomically(run.train / _STATE, buffer.getvalue())


def _read_state(run: RunDir, fingerprint: str) -> dict[str, Any] | None:
    path = run.train / _STATE
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    if state["fingerprint"] != fingerprint:
        raise RunDirError(
            f"run directory '{run.path}': holds a training that was cut off and had other settings, or other questions "
            "(hint: use the same to go on, or --restart to begin anew)"
        )
    return state


def _draw_curves(run: RunDir, history: Sequence[Epoch]) -> None:
    from metadeploy import plots

    rows = [{**asdict(row), "val_loss": row.val_decision} for row in history]
    plots.training_curves(rows, run.train / "curves.png")


def _epoch(row: Mapping[str, str]) -> Epoch:
    """A line of the curves' file."""
    numbers = {key: float(value) for key, value in row.items() if key != "epoch"}
    return Epoch(epoch=int(row["epoch"]), **numbers)


def _write_curves(run: RunDir, history: Sequence[Epoch]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Epoch)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(row).items()} for row in history)
    write_atomically(run.train / _CURVES, text.getvalue())
