"""What the subcommands share: consoles, sizes, bars, JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from metadeploy._files import json_text

__all__ = [
    "bar",
    "byte_size",
    "checked_refusal_text",
    "facts_table",
    "output",
    "parameter_count",
    "print_json",
    "progress_bar",
    "ranges",
]

#: Width if stdout is not a terminal: wide enough that tensor names are not cut.
_PIPE_WIDTH: Final = 120
_BAR_WIDTH: Final = 24


def output() -> Console:
    """Return the console for results: stdout, with plain text if it is not a terminal."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def byte_size(size: int) -> str:
    """Format a size in bytes for people: ``6.1 MB``."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def parameter_count(count: int) -> str:
    """Format a number of parameters for people: ``4,485`` or ``2.28 M``."""
    return f"{count:,}" if count < 100_000 else f"{count / 1e6:.2f} M"


def ranges(layers: tuple[int, ...]) -> str:
    """Format a list of layers for people: ``21-31`` or ``1,5,7-9``; ``none`` if it is empty."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return ",".join(texts) or "none"


def checked_refusal_text(text: str | None, *, hint: str = "'--refusal-text'") -> str | None:
    """Return a refusal text as typed. It is a usage error if answers cannot be compared with it."""
    from metadeploy.sidecar.refusal import check_refusal_text

    try:
        return None if text is None else check_refusal_text(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from None


def bar(value: float) -> str:
    """Draw a bar for a strength in -1 … 1. The bar of a negative strength is hollow."""
    filled = round(min(abs(value), 1.0) * _BAR_WIDTH) if value == value else 0
    return ("█" if value >= 0 else "░") * filled + "·" * (_BAR_WIDTH - filled)


def facts_table(facts: Mapping[str, str]) -> Table:
    """Build a table of names and values without lines. Values are shown literally, with their markup."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, escape(value))
    return table


def print_json(value: Any) -> None:
    """Print a JSON document to stdout in UTF-8, whatever the encoding of text output is."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    try:  # file names that the locale could not decode may still be UTF-8
        text = text.encode("utf-8", "surrogateescape").decode()
    except UnicodeError:
        text = json_text(value, indent=2)
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:  # stdout was replaced by an object that only takes text
        print(text)
        return
    sys.stdout.flush()
    buffer.write(f"{text}\n".encode())
    buffer.flush()


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on stderr, or nothing if stderr is not a terminal.

    Args:
        label: text before the bar.

    Yields:
        A function to call with the number of bytes so far and the total.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(escape(label), total=None)

        def update(n_bytes: int, total: int) -> None:
            progress.update(task, completed=n_bytes, total=total)

        yield update
