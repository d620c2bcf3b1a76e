"""The ``metadeploy`` command.

Each subcommand has a module of its own that imports nothing heavy before it runs, so that help and completion are
instant. Results go to stdout, everything else to stderr. Exit codes: 0, 1 error, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from metadeploy.cli import bench as _bench
from metadeploy.cli import card as _card
from metadeploy.cli import collect as _collect
from metadeploy.cli import demo as _demo
from metadeploy.cli import eval as _eval
from metadeploy.cli import export as _export
from metadeploy.cli import inspect as _inspect
from metadeploy.cli import ladder as _ladder
from metadeploy.cli import train as _train
from metadeploy.errors import Error
from metadeploy.version import own_version

__all__ = ["app", "main"]

app = typer.Typer(
    name="metadeploy",
    help="Run language models that know when they do not know: export trained Doubters, look into them, use them.",
    epilog="Start with [bold]metadeploy COMMAND --help[/bold]; each command shows examples.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_demo.register(app)
_collect.register(app)
_train.register(app)
_eval.register(app)
_ladder.register(app)
_export.register(app)
_inspect.register(app)
_card.register(app)
_bench.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"metadeploy {own_version() or '(a copy that is not installed)'}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; never returns, and never ends in a traceback for bad input."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a bar or a name that a legacy code page cannot show is no reason to fail
            stream.reconfigure(errors="replace")
    try:
        app()
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        where = f" '{error.filename}'" if error.filename else ""
        print(f"error: system{where}: {error.strerror or error}", file=sys.stderr)
    sys.exit(1)
