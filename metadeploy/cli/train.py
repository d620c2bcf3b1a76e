"""``metadeploy train``."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from metadeploy._exact import percent
from metadeploy.cli._flags import Flag, Panel, fields_of, takes
from metadeploy.sidecar.spec import EncoderDtype, EncoderType, InjectFrom
from metadeploy.training.settings import FitSettings, OperatingPoint, TrainSettings

if TYPE_CHECKING:
    from metadeploy.checkpoint.run_dir import RunDir
    from metadeploy.cli._progress import StageProgress
    from metadeploy.training.train import Trained
    from metadeploy.training.trainer import Epoch

__all__ = ["register"]

_INJECT_FROM: Final[dict[str, InjectFrom]] = {"prompt": "prompt", "last-token": "last_prompt_token"}
_TRAIN, _FIT = TrainSettings(), FitSettings()

_EPILOG = """\
[bold]Examples[/bold]

  metadeploy train runs/a                               [dim]# with the defaults[/dim]

  metadeploy train runs/a --target-coverage 0.3         [dim]# answers 30 % of the validation questions[/dim]

  metadeploy train runs/a1 --collected runs/a --seed 1       [dim]# another seed, on the same questions[/dim]

  metadeploy train runs/b --inject-from prompt --encoder-type multi_token --epochs 6

  metadeploy train runs/b --restart --seed 1            [dim]# again, on the same collected questions[/dim]

If you interrupt it, the best epoch so far is saved, and the same command continues. If training is finished, the same
command with another operating point only calibrates the threshold again.
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="train", epilog=_EPILOG, short_help="Train a Doubter on collected questions.")(_train)


_WRAPPER, _POINT, _LEARNING = "The Doubter", "Operating point", "Learning"

_FLAGS: Final = (
    Panel(
        _WRAPPER,
        _TRAIN,
        encoder_type=Flag("Encoder that turns activations into cognitive tokens.", EncoderType),
        target_layers=Flag("Layers that the encoder reads: late, all, 21-31 or 1,5,7-9."),
        cross_attn_layers=Flag("Layers after which the injection happens. Training runs only the blocks above."),
        inject_from=Flag(
            "Inject at every position of the prompt, or from its last token on.",
            Literal["prompt", "last-token"],
            "last-token",
        ),
        bottleneck_dim=Flag("Width of encoder and cross-attention.", more={"min": 1}),
        ca_num_heads=Flag("Heads of the cross-attention.", more={"min": 1}),
        enc_num_heads=Flag("Heads of the encoder (multi_token, transformer).", more={"min": 1}),
        num_cognitive_tokens=Flag(
            "Cognitive tokens of the multi_token encoder; the others have one for each layer.", more={"min": 1}
        ),
        encoder_blocks=Flag("Blocks of the transformer encoder.", more={"min": 1}),
        encoder_dtype=Flag("Type of the encoder in the checkpoint; float16 halves its size.", EncoderDtype),
        refusal_text=Flag("Sentence with which it declines."),
    ),
    Panel(
        _POINT,
        max_over_refusal=Flag(
            "Maximum proportion of the base's right answers that it may decline.",
            float | None,
            None,
            more={"min": 0, "max": 1, "show_default": str(_TRAIN.point.max_over_refusal)},
        ),
        target_coverage=Flag(
            "Proportion of questions to answer, instead of --max-over-refusal.",
            float | None,
            None,
            more={"min": 0, "max": 1, "show_default": "none"},
        ),
    ),
    Panel(
        _LEARNING,
        _FIT,
        pretrain_epochs=Flag("Epochs that train the encoder alone to tell right from wrong.", more={"min": 0}),
        pretrain_lr=Flag("Learning rate of the pretraining."),
        folds=Flag("Cross-fitting folds for soft labels; 1 uses hard labels.", more={"min": 1}),
        epochs=Flag("Maximum number of epochs through the base, after the pretraining.", more={"min": 1}),
        patience=Flag("Stop after this many epochs without improvement.", more={"min": 1}),
        batch_size=Flag("Questions in one step.", more={"min": 1}),
        refusal_share=Flag(
            "Proportion of the questions to decline that each epoch visits; their weight makes up for the rest.",
            more={"min": 0, "max": 1},
        ),
        lr=Flag("Learning rate of the matrices; gates and preferences learn 5 times as fast."),
        weight_decay=Flag("Weight decay of the matrices.", more={"min": 0}),
        warmup=Flag("Proportion of the steps in which the learning rate rises.", more={"min": 0, "max": 1}),
        clip=Flag("Maximum norm of the gradient."),
        decision_weight=Flag("Weight of the decision between answer and refusal.", more={"min": 0}),
        keep_weight=Flag("Weight of keeping the base's own words.", more={"min": 0}),
        dropout=Flag("Dropout of the activations.", more={"min": 0, "max": 0.99}),
    ),
    Panel(
        _LEARNING,
        _TRAIN,
        self_correction=Flag(
            "Proportion of the base's errors whose target is the accepted answer instead of the refusal.",
            more={"min": 0, "max": 1},
        ),
    ),
    Panel(
        _LEARNING,
        _FIT,
        seed=Flag("Seed of everything random.", more={"min": 0}),
        leave_out=Flag(
            "Category to leave out, to test the Doubter on an unknown kind; can be repeated.",
            list[str] | None,
            None,
            more={"show_default": "none"},
        ),
    ),
)


@takes(*_FLAGS)
def _train(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A folder that metadeploy collect has filled.")],
    *,
    collected: Annotated[
        Path | None,
        typer.Option(metavar="OTHER_RUN", help="For a new RUN_DIR: use the questions that OTHER_RUN collected."),
    ] = None,
    keep_cache: Annotated[
        bool,
        typer.Option("--keep-cache", help="Keep the cached outputs of the base for a next training with --collected."),
    ] = False,
    device: Annotated[
        str, typer.Option(help="Torch device, such as cpu or cuda:1; auto takes a GPU if there is one.")
    ] = "auto",
    restart: Annotated[
        bool, typer.Option("--restart", help="Delete the results of an earlier train in RUN_DIR, and start again.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")] = False,
    **flags: Any,
) -> None:
    """Train a Doubter on the collected answers of a base model.

    It learns to keep the base's answer if it is right, and to decline if it is wrong.

    The validation questions choose the best epoch and the threshold.
    """
    for name in ("lr", "pretrain_lr", "clip"):
        if not flags[name] > 0:
            hint = f"'--{name.replace('_', '-')}'"
            raise typer.BadParameter(f"{flags[name]} is not above 0", param_hint=hint)
    max_over_refusal, target_coverage = flags["max_over_refusal"], flags["target_coverage"]
    if max_over_refusal is not None and target_coverage is not None:
        raise typer.BadParameter("give either this or --max-over-refusal, not both", param_hint="'--target-coverage'")
    from metadeploy.cli._training import prepare_process

    prepare_process()
    from metadeploy.checkpoint.run_dir import RunDir

    if max_over_refusal is None and target_coverage is None:
        max_over_refusal = _TRAIN.point.max_over_refusal
    settings = TrainSettings(
        **{
            **fields_of(TrainSettings, flags),
            "inject_from": _INJECT_FROM[flags["inject_from"]],
            "leave_out": tuple(flags["leave_out"] or ()),
            "keep_cache": keep_cache,
            "point": OperatingPoint(max_over_refusal=max_over_refusal, target_coverage=target_coverage),
            "fit": FitSettings(**fields_of(FitSettings, flags)),
            "device": device,
        }
    )
    if collected is None:
        run = RunDir(run_dir)
    else:
        from metadeploy.training.train import link_collected

        run = RunDir(run_dir, create=True)
        link_collected(run, RunDir(collected))
    trained = _run(run, settings, restart=restart)
    if as_json:
        from metadeploy.cli._console import print_json

        print_json(_as_json(run, trained))
    else:
        _show(run, trained)
    if trained.interrupted:
        print(
            f"interrupted: the checkpoint is from epoch {trained.best_epoch}; the same command continues after epoch "
            f"{len(trained.history)}",
            file=sys.stderr,
        )
        raise typer.Exit(130)


def _run(run: RunDir, settings: TrainSettings, *, restart: bool) -> Trained:
    """Train, or only calibrate if training is finished, and show the progress."""
    from metadeploy.cli._progress import StageProgress
    from metadeploy.cli._training import terminate_as_interrupt
    from metadeploy.errors import RunDirError
    from metadeploy.training.train import TrainCallbacks, finished_with, recalibrate, train

    pace = _Pace(settings.fit)
    with terminate_as_interrupt(), StageProgress(total_time=pace.total_time) as progress:

        def resumed(history: Sequence[Epoch]) -> None:
            for row in history:
                pace.add(row)
            progress.say(f"continuing after epoch {len(history)}")

        def finished(row: Epoch) -> None:
            best = pace.add(row, seconds=progress.elapsed)
            progress.say(
                f"epoch {row.epoch} of at most {settings.fit.epochs}: loss {row.loss:.3f}, validation AUROC "
                f"{row.val_auroc:.3f}, within categories {row.val_auroc_within:.3f}{'  (best so far)' if best else ''}"
            )

        report = TrainCallbacks(stage=progress.stage, resumed=resumed, epoch=finished)
        try:
            same = None if restart else finished_with(run, settings)
            if same is False:
                raise RunDirError(
                    f"run directory '{run.path}': holds a trained Doubter that had other settings, or other questions "
                    "(hint: take another folder, or --restart to train again)"
                )
            if same:
                progress.say("training is finished: only the operating point is calibrated (--restart trains again)")
                return recalibrate(run, settings, callbacks=report)
            return train(run, settings, restart=restart, callbacks=report)
        except KeyboardInterrupt:
            progress.say(
                "interrupted: the work before the first epoch is saved; the same command continues"
                if not pace.epochs_done
                else f"interrupted: {pace.epochs_done} epochs are saved; the same command continues"
            )
            raise typer.Exit(130) from None


class _Pace:
    """Estimates the longest time that training can take, from finished epochs or the current one.

    Attributes:
        epochs_done: finished epochs of this run and of the interrupted run that it continues.
    """

    def __init__(self, settings: FitSettings) -> None:
        self.epochs_done = 0
        self._epochs = settings.epochs
        self._seconds: list[float] = []
        self._best = -math.inf

    def add(self, row: Epoch, *, seconds: float | None = None) -> bool:
        """Count a finished epoch, with its time if that is known. Return whether it is the best so far."""
        self.epochs_done += 1
        if seconds is not None:
            self._seconds.append(seconds)
        previous_best, self._best = self._best, max(self._best, row.score)
        return row.score > previous_best

    def total_time(self, progress: StageProgress) -> str | None:
        from metadeploy.cli._progress import duration

        left = progress.left
        if left is None or not progress.name.startswith("epoch "):
            return None
        epoch_seconds = sum(self._seconds) / len(self._seconds) if self._seconds else progress.elapsed + left
        return f"at most {duration(left + (self._epochs - self.epochs_done - 1) * epoch_seconds)} in all"


def _files(run: RunDir) -> list[Path]:
    return [run.checkpoint, run.train / "curves.csv", run.train / "curves.png", run.run_json]


def _as_json(run: RunDir, trained: Trained) -> dict[str, Any]:
    return {
        "run_dir": str(run.path),
        "best_epoch": trained.best_epoch,
        "interrupted": trained.interrupted,
        "refusal_bias": trained.bias,
        "val": trained.val,
        "history": [asdict(row) for row in trained.history],
        "files": [str(path) for path in _files(run)],
    }


def _show(run: RunDir, trained: Trained) -> None:
    from rich.markup import escape

    from metadeploy.cli._console import facts_table, output, parameter_count

    best = trained.history[trained.best_epoch - 1]
    val = {name: "–" if share is None else f"{percent(share)}%" for name, share in trained.val.items()}
    console = output()
    console.print(
        facts_table(
            {
                "best epoch": f"{best.epoch} of {len(trained.history)}: AUROC {best.val_auroc:.3f}, within categories "
                f"{best.val_auroc_within:.3f} (validation questions)",
                "operating point": f"answers {val['coverage']}, {val['selective_accuracy']} of them right; declines "
                f"{val['over_refusal']} of the base's right answers (validation questions)",
                "parameters": parameter_count(sum(tensor.numel() for tensor in trained.doubter.parameters())),
                "written": "\n".join(str(path) for path in _files(run)),
            }
        )
    )
    console.print(f"\nnext: metadeploy eval {escape(str(run.path))}", soft_wrap=True)
