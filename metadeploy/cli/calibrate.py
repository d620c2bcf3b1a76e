"""``metadeploy calibrate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from metadeploy.cli._flags import Flag, Panel, takes, threads_flag
from metadeploy.verdict.settings import CalibrationSettings

if TYPE_CHECKING:
    from metadeploy.verdict.calibrate import Calibrated

__all__ = ["register"]

_EPILOG = """\
[bold]Examples[/bold]

  metadeploy calibrate verdict_sidecar.gguf --base base-Q4_K_M.gguf      [dim]# for another type of the same base[/dim]

  metadeploy calibrate verdict_sidecar.gguf --base base.gguf --questions my.jsonl -o mine.gguf

The weights of the head stay as they are. Only its two numbers of calibration and its guarantees change. No torch and no
checkpoint are needed. If you interrupt it, the same command continues.
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="calibrate", epilog=_EPILOG, short_help="Fit a verdict head to a base and its questions.")(
        _calibrate
    )


_FLAGS: Final = Panel(
    None,
    CalibrationSettings(sidecar=Path(), base=Path(), output=Path()),
    questions=Flag("Questions: facts, a set, a folder with splits, or a .jsonl file."),
    source=Flag("A local copy of that set.", str | None, more={"metavar": "PATH", "show_default": "from the hub"}),
    limit=Flag("Maximum number of questions in each part.", int | None, more={"min": 1, "show_default": "all"}),
    seed=Flag("Seed of the questions and the parts: that of the training.", more={"min": 0}),
    max_new_tokens=Flag("Maximum number of tokens of an answer.", more={"min": 1}),
    delta=Flag("Probability that a guarantee may fail.", more={"min": 0.001, "max": 0.5}),
    threads=threads_flag("Threads of the runtime."),
)


@takes(_FLAGS)
def _calibrate(
    sidecar: Annotated[Path, typer.Argument(metavar="SIDECAR", help="A sidecar with a verdict head.")],
    base: Annotated[Path, typer.Option(help="GGUF of the base, in the type that you will run.")],
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The new sidecar.", show_default="SIDECAR with .calibrated before .gguf"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else.")] = False,
    **flags: Any,
) -> None:
    """Calibrate a verdict head for a base: how probable an error is, and which error rates are guaranteed.

    Asks the base questions in the compiled runtime, compares the verdicts with the truth, and writes a sidecar whose
    probabilities and guarantees hold for this base and these questions. Of a set that the head was trained on, it takes
    only questions that the training never saw.
    """
    from metadeploy.cli._console import print_json
    from metadeploy.cli._progress import StageProgress
    from metadeploy.cli._training import terminate_as_interrupt
    from metadeploy.verdict.calibrate import calibrate_verdict

    settings = CalibrationSettings(
        sidecar=sidecar, base=base, output=output or sidecar.with_name(f"{sidecar.stem}.calibrated.gguf")
    )
    settings = replace(settings, **flags)
    with terminate_as_interrupt(), StageProgress() as progress:
        try:
            calibrated = calibrate_verdict(settings, stage=progress.stage)
        except KeyboardInterrupt:
            progress.say("interrupted: the same command continues")
            raise typer.Exit(130) from None
    if as_json:
        print_json(calibrated.results)
    else:
        _show(calibrated)


def _show(calibrated: Calibrated) -> None:
    from metadeploy.cli._console import output
    from metadeploy.cli._verdicts import show_guarantees

    console, results = output(), calibrated.results
    before, after = results["before"], results["after"]
    n = results["parts"]["test"]["n"]
    console.print(f"on {n} test questions: ECE {before['ece']:.3f} before, {after['ece']:.3f} after")
    console.print(f"Brier score {before['brier']:.3f} before, {after['brier']:.3f} after")
    if after["auroc"] is not None:
        console.print(f"AUROC {after['auroc']:.3f}, which a calibration does not change")
    show_guarantees(console, results["guarantees"], results["config"]["delta"])
    console.print(str(calibrated.path), markup=False, soft_wrap=True)
    console.print(str(calibrated.sidecar), markup=False, soft_wrap=True)
