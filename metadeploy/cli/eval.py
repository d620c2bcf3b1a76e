"""``metadeploy eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

if TYPE_CHECKING:
    from metadeploy.evaluation.runner import Evaluation

__all__ = ["register"]

_GAINS: Final = "0,0.25,0.5,0.75,1,1.25,1.5,1.75,2"

_EPILOG = """\
[bold]Examples[/bold]

  metadeploy eval runs/a                                     [dim]# the test questions, in PyTorch[/dim]

  metadeploy eval runs/a --engine runtime --base Q4_K_M.gguf [dim]# what users run[/dim]

  metadeploy eval runs/a --target-coverage 0.3               [dim]# a threshold chosen on val[/dim]

  metadeploy eval runs/a runs/b runs/c                       [dim]# seeds: means over the runs[/dim]
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="eval", epilog=_EPILOG, short_help="Measure a Doubter, against what a sceptic would use.")(_eval)


def _eval(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Run directories, with a trained Doubter.")],
    engine: Annotated[Literal["torch", "runtime"], typer.Option(help="PyTorch, or the compiled runtime.")] = "torch",
    base: Annotated[
        str | None, typer.Option(help="Base in its place; a GGUF for the runtime.", show_default="run.json's")
    ] = None,
    sidecar: Annotated[
        Path | None,
        typer.Option(
            help="Another wrapper.", show_default="doubter_checkpoint.pt; doubter_sidecar.gguf for the runtime"
        ),
    ] = None,
    refusal_text: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Sentence it was trained to decline with.", show_default="as its files say"),
    ] = None,
    split: Annotated[Literal["train", "val", "test"], typer.Option(help="Which of the questions.")] = "test",
    questions: Annotated[
        str | None,
        typer.Option(
            help="Other questions: a set or a folder (its split), or a .jsonl file.", show_default="the run's"
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="A local copy of that set: mmlu, triviaqa or gsm8k.", show_default="from the hub"
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most questions, drawn at random.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of that drawing, and of the bootstrap.")] = 0,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Decline where doubt reaches it.")] = 0.5,
    target_coverage: Annotated[
        float | None, typer.Option(min=0, max=1, help="Choose the threshold on val: answer this share.")
    ] = None,
    max_over_refusal: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Choose it on val: decline at most this share of what the base has right."),
    ] = None,
    gains: Annotated[str, typer.Option(help="Gains of the sweep, between commas; 'none' for no sweep.")] = _GAINS,
    sweep_limit: Annotated[
        int | None,
        typer.Option(min=1, help="Most questions of the sweep.", show_default="1000; 200 for the runtime"),
    ] = None,
    baselines: Annotated[bool, typer.Option("--baselines/--no-baselines", help="Compare with baselines.")] = True,
    bootstrap: Annotated[int, typer.Option(min=1, help="Draws of each interval.")] = 2000,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"] | None,
        typer.Option(help="Of the base in PyTorch.", show_default="run.json's"),
    ] = None,
    device: Annotated[str, typer.Option(help="Torch device.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Questions at once in PyTorch.")] = 128,
    threads: Annotated[
        int | None, typer.Option("-t", "--threads", min=1, max=512, help="Threads of the engine.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File for the means over several run directories.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else.")] = False,
) -> None:
    """Ask a base alone and with its Doubter, and judge both.

    Results, samples and plots go into the run's folder eval. What is interrupted goes on where it was, and answers that
    are there already are not asked for again.
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
    from metadeploy.evaluation.settings import EvalSettings, parse_gains

    if output is not None and len(runs) == 1:
        raise typer.BadParameter("is for the means over several run directories, one is given", param_hint="'--output'")
    try:
        swept = parse_gains(gains)
    except ValueError:
        raise typer.BadParameter(f"'{gains}' is no list of numbers", param_hint="'--gains'") from None
    settings = EvalSettings(
        engine=engine,
        base=base,
        sidecar=sidecar,
        refusal_text=checked_refusal_text(refusal_text),
        split=split,
        questions=questions,
        source=source,
        limit=limit,
        seed=seed,
        threshold=threshold,
        target_coverage=target_coverage,
        max_over_refusal=max_over_refusal,
        gains=swept,
        sweep_limit=sweep_limit,
        baselines=baselines,
        n_bootstrap=bootstrap,
        dtype=dtype,
        device=device,
        batch_size=batch_size,
        threads=threads,
    )
    opened = [RunDir(path) for path in runs]
    if output is not None:
        for run in opened:
            read = (run.run_json, run.checkpoint, run.sidecar, *run.collect.glob("*"), *run.train.glob("*"))
            refuse_overwriting(output, *read, sidecar, base, questions, source, what="means")
    found = []
    for run in opened:
        with terminate_as_interrupt(), StageProgress() as progress:
            try:
                found.append(evaluate(run, settings, stage=progress.stage))
            except KeyboardInterrupt:
                progress.say(f"interrupted: the same command goes on, at most {CHUNK} questions earlier")
                raise typer.Exit(130) from None
        if not as_json:
            _show(found[-1])
    if len(found) == 1:
        if as_json:
            print_json(found[0].results)
        return
    combined = over_runs([each.results for each in found])
    if output is not None:
        refuse_overwriting(output, *(path for each in found for path in each.files), what="means")
        write_json(output, combined)
    if as_json:
        print_json({**combined, "results": [each.results for each in found]})
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
