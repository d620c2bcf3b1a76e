"""``metadeploy ladder``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from metadeploy._types import Split
from metadeploy.cli._flags import Flag, Panel, takes, threads_flag
from metadeploy.evaluation.ladder.settings import (
    SIDECAR_TYPES,
    TYPES,
    CacheType,
    LadderSettings,
    parse_sidecar_types,
    parse_types,
)

if TYPE_CHECKING:
    from metadeploy.evaluation.ladder import Ladder

__all__ = ["register"]

_EPILOG = """\
[bold]Examples[/bold]

  metadeploy ladder runs/a --base base-F16.gguf                       [dim]# all types[/dim]

  metadeploy ladder runs/a --base base-F16.gguf --types Q8_0,Q4_K_M   [dim]# two of the types[/dim]

  metadeploy ladder runs/a --base base-F16.gguf --work-dir quantized  [dim]# keep the files[/dim]
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        name="ladder", epilog=_EPILOG, short_help="Measure how quantization changes the decisions of a Doubter."
    )(_ladder)


_FLAGS: Final = Panel(
    None,
    LadderSettings(base=Path()),
    types=Flag("Types of the base, separated by commas.", default=",".join(TYPES)),
    sidecar_types=Flag(
        "Types of the sidecar, each with the base in F32 and Q4_K_M; 'none' for none.", default=",".join(SIDECAR_TYPES)
    ),
    refusal_text=Flag(
        "Refusal with which it was trained.", str | None, more={"metavar": "TEXT", "show_default": "as its files say"}
    ),
    split=Flag("Split of the questions.", Split),
    limit=Flag("Maximum number of questions, drawn at random.", more={"min": 1}),
    seed=Flag("Seed that draws the questions.", more={"min": 0}),
    work_dir=Flag(
        "Folder for the quantized files, which stay there.",
        Path | None,
        more={"show_default": "one in RUN_DIR/ladder, deleted at the end"},
    ),
    cache_type=Flag(
        "Type of keys and values: f32, so that only weights differ; f16, the runtime's default.", CacheType
    ),
    device=Flag("Torch device of the reference."),
    threads=threads_flag("Threads of PyTorch and of the runtime."),
)


@takes(_FLAGS)
def _ladder(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Run directory, with a trained Doubter.")],
    base: Annotated[Path, typer.Option(help="The base as GGUF in F32, F16 or BF16; other types lose more.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else.")] = False,
    **flags: Any,
) -> None:
    """Quantize a base, and compare each type with PyTorch in F32 on the same questions.

    Writes a table, results, samples and a plot to the run's folder ladder. If you interrupt it, the same command
    continues with the first type that is not finished.
    """
    from metadeploy.cli._console import checked_refusal_text, print_json
    from metadeploy.cli._progress import StageProgress
    from metadeploy.cli._training import prepare_process, terminate_as_interrupt

    prepare_process()
    from metadeploy.checkpoint.run_dir import RunDir
    from metadeploy.evaluation.ladder import run_ladder

    settings = LadderSettings(
        base=base,
        **{
            **flags,
            "types": parse_types(flags["types"]),
            "sidecar_types": parse_sidecar_types(flags["sidecar_types"]),
            "refusal_text": checked_refusal_text(flags["refusal_text"]),
        },
    )
    with terminate_as_interrupt(), StageProgress() as progress:
        try:
            ladder = run_ladder(RunDir(run_dir), settings, stage=progress.stage, say=progress.say)
        except KeyboardInterrupt:
            progress.say("interrupted: the same command continues with the first type that is not finished")
            raise typer.Exit(130) from None
    if as_json:
        print_json(ladder.results)
    else:
        _show(ladder)


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
