"""``metadeploy ladder``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from metadeploy._types import Split
from metadeploy.evaluation.ladder.settings import SIDECAR_TYPES, TYPES

if TYPE_CHECKING:
    from metadeploy.evaluation.ladder import Ladder

__all__ = ["register"]

_TYPES: Final = ",".join(TYPES)
_SIDECAR_TYPES: Final = ",".join(SIDECAR_TYPES)

_EPILOG = """\
[bold]Examples[/bold]

  metadeploy ladder runs/a --base base-F16.gguf                       [dim]# all of it[/dim]

  metadeploy ladder runs/a --base base-F16.gguf --types Q8_0,Q4_K_M   [dim]# two of the types[/dim]

  metadeploy ladder runs/a --base base-F16.gguf --work-dir quantised  [dim]# keep the files[/dim]
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        name="ladder", epilog=_EPILOG, short_help="Measure what quantisation changes of a Doubter's decisions."
    )(_ladder)


def _ladder(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Run directory, with a trained Doubter.")],
    base: Annotated[Path, typer.Option(help="The base as GGUF, in F32, F16 or BF16; others lose more.")],
    types: Annotated[str, typer.Option(help="Types of the base, between commas.")] = _TYPES,
    sidecar_types: Annotated[
        str, typer.Option(help="Types of the sidecar, tried with F32 and Q4_K_M; 'none' for none.")
    ] = _SIDECAR_TYPES,
    refusal_text: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Sentence it was trained to decline with.", show_default="as its files say"),
    ] = None,
    split: Annotated[Split, typer.Option(help="Which of the questions.")] = "test",
    limit: Annotated[int, typer.Option(min=1, help="Most questions, drawn at random.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Of that drawing.")] = 0,
    work_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the quantised files, which are kept.", show_default="one in RUN_DIR/ladder, deleted"
        ),
    ] = None,
    cache_type: Annotated[
        Literal["f32", "f16"],
        typer.Option(help="Keys and values: f32, so that only weights differ; f16, as the runtime has them by itself."),
    ] = "f32",
    device: Annotated[str, typer.Option(help="Torch device of the reference.")] = "auto",
    threads: Annotated[
        int | None, typer.Option("-t", "--threads", min=1, max=512, help="Threads of PyTorch and the runtime.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else.")] = False,
) -> None:
    """Quantise a base, and compare each type with PyTorch in F32 on the same questions.

    Table, results, samples and plot go into the run's folder ladder. What is interrupted goes on with the first type
    that is not finished.
    """
    from metadeploy.cli._console import checked_refusal_text, print_json
    from metadeploy.cli._progress import StageProgress
    from metadeploy.cli._training import prepare_process, terminate_as_interrupt

    prepare_process()
    from metadeploy.checkpoint.run_dir import RunDir
    from metadeploy.evaluation.ladder import LadderSettings, climb, parse_sidecar_types, parse_types

    settings = LadderSettings(
        base=base,
        types=parse_types(types),
        sidecar_types=parse_sidecar_types(sidecar_types),
        refusal_text=checked_refusal_text(refusal_text),
        split=split,
        limit=limit,
        seed=seed,
        work_dir=work_dir,
        cache_type=cache_type,
        device=device,
        threads=threads,
    )
    with terminate_as_interrupt(), StageProgress() as progress:
        try:
            found = climb(RunDir(run_dir), settings, stage=progress.stage, say=progress.say)
        except KeyboardInterrupt:
            progress.say("interrupted: the same command goes on with the first type that is not finished")
            raise typer.Exit(130) from None
    if as_json:
        print_json(found.results)
    else:
        _show(found)


def _show(ladder: Ladder) -> None:
    from metadeploy.cli._console import output
    from metadeploy.evaluation.ladder.report import remarks, tables

    console = output()
    for table in tables(ladder.results):
        console.print()
        console.print(table)
    for remark in remarks(ladder.results):
        console.print(remark, markup=False)
    console.print()
    for path in ladder.files:
        console.print(str(path), markup=False, soft_wrap=True)
