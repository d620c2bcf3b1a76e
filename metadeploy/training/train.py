"""`metadeploy train`: from what was collected to a trained wrapper and its calibrated operating point."""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import torch

from metadeploy.errors import RunDirError, faults_message
from metadeploy.export.layers import LayerSpec, parse_layers
from metadeploy.reference.base import FrozenBase, eos_ids
from metadeploy.reference.config import MetaSpiderConfig
from metadeploy.reference.doubter import Doubter
from metadeploy.reference.loading import load_base
from metadeploy.sidecar.spec import DEFAULT_REFUSAL_TEXT, EncoderType, InjectFrom, WrapperConfig
from metadeploy.training.calibration import OperatingPoint, calibrate
from metadeploy.training.checkpoint import save_checkpoint
from metadeploy.training.examples import Kept, keep
from metadeploy.training.fit import Epoch, FitSettings, Fitting, pretrain
from metadeploy.training.kept_files import load_kept, save_kept
from metadeploy.training.lessons import Lessons, make_lessons
from metadeploy.training.prefix import SharedPrefix
from metadeploy.training.records import Collected
from metadeploy.training.run_dir import RunDir, write_atomically
from metadeploy.training.wrapper import new_wrapper

__all__ = ["Report", "TrainSettings", "train"]

_STATE: Final = "state.pt"


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What to train; all of it is recorded in run.json.

    Attributes:
        encoder_type: ``selective``, ``multi_token`` or ``transformer``.
        target_layers: whose activations the encoder reads.
        cross_attn_layers: after which the wrapper injects; what training runs begins above the lowest.
        inject_from: ``prompt`` (every position) or ``last_prompt_token``.
        bottleneck_dim: B of encoder and cross-attention.
        ca_num_heads: heads of the cross-attention.
        enc_num_heads: heads inside the multi_token and transformer encoders.
        num_cognitive_tokens: C of the multi_token encoder; the others have one for each target layer.
        encoder_blocks: blocks of the transformer encoder.
        refusal_text: what the wrapper is to say when it doubts.
        self_correction: share of the base's errors that are taught the accepted answer in place of the refusal.
        point: the operating point that is calibrated on the validation questions.
        fit: how it learns.
        device: a torch device, or ``auto``.
    """

    encoder_type: EncoderType = "selective"
    target_layers: LayerSpec = "late"
    cross_attn_layers: LayerSpec = "late"
    inject_from: InjectFrom = "last_prompt_token"
    bottleneck_dim: int = 64
    ca_num_heads: int = 4
    enc_num_heads: int = 8
    num_cognitive_tokens: int = 8
    encoder_blocks: int = 2
    refusal_text: str = DEFAULT_REFUSAL_TEXT
    self_correction: float = 0.0
    point: OperatingPoint = field(default_factory=OperatingPoint)
    fit: FitSettings = field(default_factory=FitSettings)
    device: str = "auto"


@dataclass
class Report:
    """What to tell while training goes on; each function may be replaced.

    Attributes:
        stage: called with a stage's name, steps done and in all.
        epoch: called with each finished epoch.
    """

    stage: Callable[[str, int, int], None] = lambda name, done, total: None
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


def train(run: RunDir, settings: TrainSettings, *, report: Report | None = None) -> Trained:
    """Train a wrapper on what was collected, and write it.

    A run that was cut off goes on after its last whole epoch. Ctrl-C ends training and keeps the best epoch so far.

    Args:
        run: a run directory with collected questions.
        settings: what to train.
        report: told what goes on.

    Returns:
        The wrapper and how it went. Written are doubter_checkpoint.pt, train/curves.csv and .png, and run.json.

    Raises:
        RunDirError: nothing was collected, or the directory holds the state of another training.
        ModelLoadError: the base cannot be loaded.
        KeyboardInterrupt: Ctrl-C before the first epoch was done.
    """
    report = report or Report()
    run.require("model_name", "num_layers", "hidden_dim", "collect", made_by="collect")
    collected = {name: Collected.read(run.collect, name) for name in ("train", "val")}
    config = _config(run, settings)
    fingerprint = _fingerprint(run, settings)
    state = _read_state(run, fingerprint)

    report.stage("load the base", 0, 1)
    model, tokenizer = load_base(
        MetaSpiderConfig(
            model_name=run.manifest["model_name"],
            device=settings.device,
            dtype=run.manifest["dtype"],
            quantization=run.manifest.get("quantization"),
        )
    )
    base = FrozenBase(model)
    report.stage("load the base", 1, 1)
    refusal_ids: list[int] = tokenizer(settings.refusal_text, add_special_tokens=False)["input_ids"]
    config = dataclasses.replace(config, refusal_token_ids=tuple(refusal_ids))
    lessons = {
        name: make_lessons(
            found,
            tokenizer,
            target_layers=config.target_layers,
            refusal_ids=refusal_ids,
            end_of_turn=end_of_turn(base, tokenizer, config),
            answer_suffix=config.answer_suffix,
            chat_template_kwargs=dict(config.chat_template_kwargs),
            self_correction=settings.self_correction if name == "train" else 0.0,
            seed=settings.fit.seed,
        )
        for name, found in collected.items()
    }
    prompts = [example.prompt_ids for each in lessons.values() for example in each.examples]
    prefix = SharedPrefix.none() if config.inject_from == "prompt" else SharedPrefix.of(base, prompts)
    kept = {name: _kept(run, name, base, each, config, prefix, fingerprint, report) for name, each in lessons.items()}

    torch.manual_seed(settings.fit.seed)
    doubter = new_wrapper(config, num_blocks=settings.encoder_blocks)
    if state is None and settings.fit.pretrain_epochs:
        report.stage("pre-train the encoder", 0, 1)
        pretrain(doubter, lessons["train"], settings.fit)
        report.stage("pre-train the encoder", 1, 1)
    fitting = Fitting(
        base,
        doubter,
        settings.fit,
        train=(lessons["train"], kept["train"]),
        val=(lessons["val"], kept["val"]),
        prefix=prefix,
        refusal_token=refusal_ids[0],
    )
    if state is not None:
        fitting.load_state(state["fitting"])
    interrupted = _fit(run, fitting, fingerprint, report)
    return _finish(run, settings, fitting, (lessons["val"], kept["val"]), interrupted)


def end_of_turn(base: FrozenBase, tokenizer: Any, config: WrapperConfig) -> int:
    """The token that the chat template puts after what the assistant said.

    Raises:
        RunDirError: it puts none of the tokens that end generation there, and the tokenizer has no end token.
    """
    stops = {*base.stop_ids, *eos_ids(tokenizer)}
    said = "fine"
    variables = dict(config.chat_template_kwargs)
    text: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": "?"}, {"role": "assistant", "content": said}], tokenize=False, **variables
    )
    after: list[int] = tokenizer(text[text.rindex(said) + len(said) :], add_special_tokens=False)["input_ids"]
    for token in (*after, tokenizer.eos_token_id):
        if token in stops:
            return int(token)
    raise RunDirError("base model: its chat template ends a turn with no token that ends generation")


def _config(run: RunDir, settings: TrainSettings) -> WrapperConfig:
    manifest = run.manifest
    layers: dict[str, tuple[int, ...]] = {}
    faults = []
    for key in ("target_layers", "cross_attn_layers"):
        try:
            layers[key] = parse_layers(getattr(settings, key), num_layers=manifest["num_layers"])
        except ValueError as error:
            faults.append(f"--{key.replace('_', '-')} {error}")
    heads = [("--ca-num-heads", settings.ca_num_heads)]
    if settings.encoder_type != "selective":
        heads.append(("--enc-num-heads", settings.enc_num_heads))
    faults += [
        f"{flag} is {count}, expected a divisor of --bottleneck-dim {settings.bottleneck_dim}"
        for flag, count in heads
        if count < 1 or settings.bottleneck_dim % count
    ]
    if faults:
        raise RunDirError(faults_message("train", faults))
    n_tokens = settings.num_cognitive_tokens if settings.encoder_type == "multi_token" else len(layers["target_layers"])
    return WrapperConfig(
        encoder_type=settings.encoder_type,
        hidden_dim=manifest["hidden_dim"],
        encoder_dim=settings.bottleneck_dim,
        bottleneck_dim=settings.bottleneck_dim,
        num_cognitive_tokens=n_tokens,
        ca_num_heads=settings.ca_num_heads,
        enc_num_heads=settings.enc_num_heads,
        target_layers=layers["target_layers"],
        cross_attn_layers=tuple(sorted(layers["cross_attn_layers"])),
        inject_from=settings.inject_from,
        refusal_text=settings.refusal_text,
        prompt_format=manifest.get("prompt_format"),
        answer_suffix=manifest.get("answer_suffix"),
        chat_template_kwargs=manifest.get("chat_template_kwargs") or {},
        base_model=manifest["model_name"],
        base_block_count=manifest["num_layers"],
    )


def _fit(run: RunDir, fitting: Fitting, fingerprint: str, report: Report) -> bool:
    """Run epochs until it is over; True where Ctrl-C ended it."""
    try:
        while not fitting.is_over:
            stage = f"epoch {len(fitting.history) + 1}"
            step = functools.partial(report.stage, stage)
            step(0, fitting.steps_per_epoch)
            row = fitting.run_epoch(step)
            buffer = io.BytesIO()
            torch.save({"fingerprint": fingerprint, "fitting": fitting.state()}, buffer)
            write_atomically(run.train / _STATE, buffer.getvalue())
            _write_curves(run, fitting.history)
            report.epoch(row)
    except KeyboardInterrupt:
        if not fitting.history:
            raise
        return True
    return False


def _finish(
    run: RunDir,
    settings: TrainSettings,
    fitting: Fitting,
    val: tuple[Lessons, list[Kept]],
    interrupted: bool,
) -> Trained:
    """Take the best epoch, calibrate it as it will be stored, and write everything."""
    doubter = fitting.doubter
    doubter.load_state_dict(fitting.best)
    # the file holds the cross-attention in bfloat16, as the framework's do; what is calibrated is what is stored
    doubter.ca.to(torch.bfloat16).to(torch.float32)
    margins, _ = fitting.margins(*val)
    point = calibrate(margins, val[0].base_correct, settings.point)
    doubter.config = dataclasses.replace(doubter.config, refusal_bias=point.bias)
    save_checkpoint(run.checkpoint, doubter)
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
                **_plain(settings),
                "best_epoch": fitting.best_epoch,
                "epochs_done": len(fitting.history),
                "interrupted": interrupted,
                "val": point.summary(),
            },
        }
    )
    _write_curves(run, fitting.history)
    from metadeploy.evaluation import plots

    plots.training_curves(
        [{**asdict(row), "val_loss": row.val_decision} for row in fitting.history], run.train / "curves.png"
    )
    if fitting.is_over:
        for leftover in (run.train / _STATE, *run.train.glob("kept-*.safetensors")):
            leftover.unlink(missing_ok=True)
    return Trained(
        doubter.requires_grad_(False).eval(),
        fitting.history,
        fitting.best_epoch,
        interrupted,
        point.bias,
        point.summary(),
    )


def _kept(
    run: RunDir,
    name: str,
    base: FrozenBase,
    lessons: Lessons,
    config: WrapperConfig,
    prefix: SharedPrefix,
    fingerprint: str,
    report: Report,
) -> list[Kept]:
    """The kept parts of a split, from the file that an interrupted run left or computed now."""
    path = run.train / f"kept-{name}.safetensors"
    found = load_kept(path, fingerprint)
    if found is None:
        stage = f"lower blocks, {name}"
        report.stage(stage, 0, len(lessons.examples))
        found = keep(
            base,
            lessons.examples,
            first=min(config.cross_attn_layers) + 1,
            inject_from=config.inject_from,
            prefix=prefix,
            progress=lambda done, total: report.stage(stage, done, total),
        )
        save_kept(path, found, fingerprint)
    return found


def _read_state(run: RunDir, fingerprint: str) -> dict[str, Any] | None:
    path = run.train / _STATE
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    if state["fingerprint"] != fingerprint:
        raise RunDirError(
            f"run directory '{run.path}': holds a training that was cut off and had other settings, or other questions "
            "(hint: use the same to go on, or --restart to begin anew)"
        )
    return state


def _write_curves(run: RunDir, history: Sequence[Epoch]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Epoch)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(row).items()} for row in history)
    write_atomically(run.train / "curves.csv", text.getvalue())


def _fingerprint(run: RunDir, settings: TrainSettings) -> str:
    """Says whether two trainings are the same; where and how far they run does not count."""
    said = {**_plain(settings), "collect": run.manifest["collect"]}
    said.pop("device"), said.pop("point")
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _plain(settings: TrainSettings) -> dict[str, Any]:
    """The settings as JSON has them."""
    return dict(json.loads(json.dumps(asdict(settings))))
