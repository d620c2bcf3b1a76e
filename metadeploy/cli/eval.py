"""``metadeploy eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from metadeploy._types import DType, Split
from metadeploy.cli._flags import Flag, Panel, takes, threads_flag
from metadeploy.evaluation.settings import GAINS, EngineName, EvalSettings, parse_gains

if TYPE_CHECKING:
    from metadeploy.evaluation.runner import Evaluation

__all__ = ["register"]

_EPILOG = """\
[bold]Examples[/bold]

  metadeploy eval runs/a                                     [dim]# the test questions, in PyTorch[/dim]

  metadeploy eval runs/a --engine runtime --base Q4_K_M.gguf [dim]# what users run[/dim]

  metadeploy eval runs/a --target-coverage 0.3               [dim]# a threshold chosen on val[/dim]

  metadeploy eval runs/a runs/b runs/c                       [dim]# seeds: means over the runs[/dim]
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="eval", epilog=_EPILOG, short_help="Measure a Doubter and simple baselines.")(_eval)


_EVAL = EvalSettings()
_FLAGS: Final = Panel(
    None,
    _EVAL,
    engine=Flag("PyTorch, or the compiled runtime.", EngineName),
    base=Flag("Another base; a GGUF for the runtime.", str | None, more={"show_default": "run.json's"}),
    sidecar=Flag(
        "Another wrapper.",
        Path | None,
        more={"show_default": "doubter_checkpoint.pt; doubter_sidecar.gguf for the runtime"},
    ),
    refusal_text=Flag(
        "Refusal with which it was trained.",
        str | None,
        more={"metavar": "TEXT", "show_default": "as its files say"},
    ),
    split=Flag("Split of the questions.", Split),
    questions=Flag(
        "Other questions: a set or a folder with splits, or a .jsonl file.",
        str | None,
        more={"show_default": "the run's"},
    ),
    source=Flag(
        "A local copy of that set: mmlu, triviaqa or gsm8k.",
        str | None,
        more={"metavar": "PATH", "show_default": "from the hub"},
    ),
    limit=Flag("Maximum number of questions, drawn at random.", int | None, more={"min": 1}),
    seed=Flag("Seed that draws the questions and the bootstrap samples.", more={"min": 0}),
    threshold=Flag("Decline if the doubt is at least this.", more={"min": 0, "max": 1}),
    target_coverage=Flag(
        "Choose the threshold on val: answer this proportion.", float | None, more={"min": 0, "max": 1}
    ),
    max_over_refusal=Flag(
        "Choose the threshold on val: decline at most this proportion of the base's right answers.",
        float | None,
        more={"min": 0, "max": 1},
    ),
    gains=Flag(
        "Gains of the sweep, separated by commas; 'none' for no sweep.",
        default=",".join(f"{gain:g}" for gain in GAINS),
    ),
    sweep_limit=Flag(
        "Maximum number of questions of the sweep.",
        int | None,
        more={"min": 1, "show_default": "1000; 200 for the runtime"},
    ),
    baselines=Flag("Compare with baselines.", names=("--baselines/--no-baselines",)),
    n_bootstrap=Flag("Bootstrap samples of each interval.", names=("--bootstrap",), more={"min": 1}),
    dtype=Flag("Type of the base's weights in PyTorch.", DType | None, more={"show_default": "run.json's"}),
    device=Flag("Torch device."),
    batch_size=Flag("Questions at once in PyTorch.", more={"min": 1}),
    threads=threads_flag("Threads of the engine."),
)


@takes(_FLAGS)
def _eval(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Run directories, with a trained Doubter.")],
    *,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File for the means over several run directories.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else.")] = False,
    **flags: Any,
) -> None:
    """Ask a base alone and with its Doubter, and score both.

    Writes results, samples and plots to the run's folder eval. Answers that are already there are used again, so the
    same command continues after an interruption.
    """
    from metadeploy.cli._console import checked_refusal_text, print_json
    from metadeploy.cli._progress import StageProgress
    from metadeploy.cli._training import prepare_process, terminate_as_interrupt

    prepare_process()
    from metadeploy._files import refuse_overwriting, write_json
    from metadeploy.checkpoint.run_dir import RunDir
    from metadeploy.evaluation.aggregate import over_runs
    from metadeploy.evaluation.runner import evaluate
    from metadeploy.evaluation.sampling import CHUNK

    if output is not None and len(runs) == 1:
        raise typer.BadParameter("is for the means over several run directories, one is given", param_hint="'--output'")
    try:
        gains = parse_gains(flags["gains"])
    except ValueError:
        raise typer.BadParameter(f"'{flags['gains']}' is no list of numbers", param_hint="'--gains'") from None
    refusal_text = checked_refusal_text(flags["refusal_text"])
    settings = EvalSettings(**{**flags, "refusal_text": refusal_text, "gains": gains})
    run_dirs = [RunDir(path) for path in runs]
    if output is not None:
        named_inputs = [flags[name] for name in ("sidecar", "base", "questions", "source")]
        for run in run_dirs:
            inputs = (run.run_json, run.checkpoint, run.sidecar, *run.collect.glob("*"), *run.train.glob("*"))
            refuse_overwriting(output, *inputs, *named_inputs, what="means")
    evaluations = []
    for run in run_dirs:
        with terminate_as_interrupt(), StageProgress() as progress:
            try:
                evaluations.append(evaluate(run, settings, stage=progress.stage))
            except KeyboardInterrupt:
                progress.say(f"interrupted: the same command continues, at most {CHUNK} questions earlier")
                raise typer.Exit(130) from None
        if not as_json:
            _show(evaluations[-1])
    if len(evaluations) == 1:
        if as_json:
            print_json(evaluations[0].results)
        return
    combined = over_runs([evaluation.results for evaluation in evaluations])
    if output is not None:
        refuse_overwriting(output, *(path for evaluation in evaluations for path in evaluation.files), what="means")
        write_json(output, combined)
    if as_json:
        print_json({**combined, "results": [evaluation.results for evaluation in evaluations]})
    else:
        _show_means(combined, output)


def _show(evaluation: Evaluation) -> None:
    from metadeploy.cli._console import output
    from metadeploy.evaluation.report import tables

    console = output()
    console.print(f"\n{evaluation.results['config']['run']}", style="bold", markup=False)
    for table in tables(evaluation.results):
        console.print(table, soft_wrap=isinstance(table, str))
    console.print()
    for path in evaluation.files:
        console.print(str(path), markup=False, soft_wrap=True)


def _show_means(combined: dict[str, Any], path: Path | None) -> None:
    from metadeploy.cli._console import output
    from metadeploy.evaluation.report import mean_tables

    console = output()
    console.print()
    for table in mean_tables(combined):
        console.print(table)
    if path is not None:
        console.print(str(path), markup=False, soft_wrap=True)
