"""``metadeploy card``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]

_EPILOG = """\
[bold]Examples[/bold]

  metadeploy card runs/a --license MIT                         [dim]# writes runs/a/README.md[/dim]

  metadeploy card runs/a --base-model Qwen/Qwen3.5-4B          [dim]# if the base was a GGUF file[/dim]
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="card", epilog=_EPILOG, short_help="Write the model card of a run.")(_card)


def _card(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run directory, if possible with results.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", dir_okay=False, help="File to write.", show_default="README.md in RUN_DIR"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Title of the card.", show_default="after the base")] = None,
    base_model: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Hub id of the base.", show_default="run.json's, if it is one"),
    ] = None,
    license_id: Annotated[
        str | None, typer.Option("--license", help="SPDX license identifier.", show_default="run.json's")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a card that was edited or that another program wrote.")
    ] = False,
) -> None:
    """Write a model card for the Hugging Face hub from a run directory.

    All its figures come from the results files in the run directory. Run it again after every evaluation.

    A card that was edited, or that another program wrote, is only replaced with --force.
    """
    from metadeploy.card import write_card
    from metadeploy.checkpoint.run_dir import RunDir

    report = write_card(
        RunDir(run_dir), output=output, name=name, base_model=base_model, license_id=license_id, force=force
    )
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    print(report.path)
