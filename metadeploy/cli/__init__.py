"""The ``metadeploy`` command.

Each subcommand has a module of its own that imports nothing heavy before it runs, so that help and completion are
instant. Results go to stdout, everything else to stderr. Exit codes: 0, 1 error (also if the result cannot be
printed), 2 usage, 130 interrupted, 141 the reader of a pipe has closed it.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from metadeploy._version import own_version
from metadeploy.cli import bench as _bench
from metadeploy.cli import calibrate as _calibrate
from metadeploy.cli import card as _card
from metadeploy.cli import collect as _collect
from metadeploy.cli import demo as _demo
from metadeploy.cli import doctor as _doctor
from metadeploy.cli import edit as _edit
from metadeploy.cli import eval as _eval
from metadeploy.cli import export as _export
from metadeploy.cli import inspect as _inspect
from metadeploy.cli import ladder as _ladder
from metadeploy.cli import train as _train
from metadeploy.cli import verdict as _verdict
from metadeploy.cli._streams import checked_streams, end_as_sigpipe_does, refuse_closed_stdout
from metadeploy.errors import Error

__all__ = ["app", "main"]

app = typer.Typer(
    name="metadeploy",
    help="Run language models that know when they do not know: train, export, inspect and use Doubters.",
    epilog="Start with [bold]metadeploy COMMAND --help[/bold]; each command shows examples.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_demo.register(app)
_doctor.register(app)
_collect.register(app)
_train.register(app)
_eval.register(app)
_ladder.register(app)
_verdict.register(app)
_calibrate.register(app)
_export.register(app)
_inspect.register(app)
_edit.register(app)
_card.register(app)
_bench.register(app)


def _show_version(requested: bool) -> None:
    if requested:
        # another project has a script of this name, so show which project this is and which copy runs
        folder = Path(__file__).resolve().parents[1]
        typer.echo(
            f"metadeploy {own_version() or '(a copy that is not installed)'} "
            f"(Doubters beside GGUF models in llama.cpp; python -m metadeploy; {folder})"
        )
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line and end the process. Bad input never ends in a traceback."""
    refuse_closed_stdout()
    with checked_streams() as streams:
        code, message = _run()
        streams.flush()
        failure = streams.failure
        if failure is not None:
            message = f"standard output: cannot be written: {failure.strerror or failure}"
        if failure is None or failure.errno != errno.EPIPE:
            if message is not None:
                print(f"error: {message}", file=sys.stderr)
            sys.exit(code if failure is None else 1)
    end_as_sigpipe_does()
    raise AssertionError  # not reached


def _run() -> tuple[str | int | None, str | None]:
    """Run the command. Return its exit code, and the message of an error if there was one."""
    try:
        app()
    except SystemExit as end:
        return end.code, None
    except Error as error:
        return 1, str(error)
    except UnicodeEncodeError as error:
        return 1, (
            f"'{error.object}': this locale cannot encode it as {error.encoding} (hint: PYTHONUTF8=1, or "
            "LC_ALL=C.UTF-8)"
        )
    except OSError as error:
        where = f" '{error.filename}'" if error.filename else ""
        return 1, f"system{where}: {error.strerror or error}"
    return 0, None
