"""``metadeploy bench``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from metadeploy._files import refuse_overwriting, write_json
from metadeploy.bench.settings import PARTS
from metadeploy.errors import Error

if TYPE_CHECKING:
    from metadeploy.bench import Report
    from metadeploy.sidecar.spec import InjectFrom

__all__ = ["check_files", "refuse_input_as_output", "register", "show"]

_EPILOG = """\
[bold]Examples[/bold]

  metadeploy bench                                                   [dim]# the demo's model[/dim]

  metadeploy bench --base base.gguf --sidecar doubter_sidecar.gguf   [dim]# your own[/dim]

  metadeploy bench --quick --parts prompt                            [dim]# does it run?[/dim]

  metadeploy bench -o bench.json --plot bench.svg --markdown         [dim]# to keep and to show[/dim]
"""
_PARTS: Final = ",".join(PARTS)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="bench", epilog=_EPILOG, short_help="Measure what a Doubter costs its base.")(_bench)


def _bench(
    base: Annotated[
        Path | None, typer.Option(help="The base as GGUF.", show_default="the demo's, with its sidecar")
    ] = None,
    sidecar: Annotated[Path | None, typer.Option(help="A sidecar for it.")] = None,
    parts: Annotated[str, typer.Option(help="What to measure, between commas.")] = _PARTS,
    prompts: Annotated[str, typer.Option(help="Lengths of prompts in tokens.")] = "128,512,2048",
    sequences: Annotated[str, typer.Option(help="How many sequences are decoded at once.")] = "1,2,4,8,16",
    pairs: Annotated[int, typer.Option(min=1, help="Measurements of each side of a ratio.")] = 7,
    steps: Annotated[int, typer.Option(min=2, help="Tokens of an answer in each measurement.")] = 32,
    inject_from: Annotated[
        Literal["prompt", "last_prompt_token", "both"] | None,
        typer.Option(
            help="Where the injection begins in the prompts: what it would cost if it were trained so.",
            show_default="as the sidecar says",
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option("-t", "--threads", min=1, max=512, help="Threads.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="The shortest form: shows that everything runs, its figures say little.")
    ] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Also write the report as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw it: .png or .svg.")] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, and nothing else.")] = False,
) -> None:
    """Measure a base with its Doubter against the base alone: injected and clean by turns, in one process.

    Prompts through two passes and through one, decoding of one and of several sequences, batches as generate_batch
    answers them, loading of the sidecar, and encoder and decoding beside a busy process; each as a ratio of pairs,
    beside what it can be on paper.
    """
    from metadeploy.bench import BenchSettings, run_bench
    from metadeploy.cli._progress import StageProgress
    from metadeploy.cli.demo import demo_files

    if (base is None) != (sidecar is None):
        raise typer.BadParameter("give both, or none for the demo's", param_hint="'--base', '--sidecar'")
    if as_json and as_markdown:
        raise typer.BadParameter("give either --json or --markdown", param_hint="'--markdown'")
    check_files(output, plot)
    chosen = (base, sidecar) if base is not None and sidecar is not None else demo_files()
    refuse_input_as_output(output, plot, *chosen)
    modes: tuple[InjectFrom, ...] = ()
    if inject_from is not None:
        modes = ("prompt", "last_prompt_token") if inject_from == "both" else (inject_from,)
    settings = BenchSettings(
        base=chosen[0],
        sidecar=chosen[1],
        prompts=_counts(prompts, "--prompts"),
        sequences=_counts(sequences, "--sequences"),
        pairs=pairs,
        steps=steps,
        modes=modes,
        parts=tuple(part.strip() for part in parts.split(",")),
        threads=threads,
    )
    with StageProgress() as progress:
        report = run_bench(settings.quick() if quick else settings, tick=progress.stage)
    show(report, output=output, plot=plot, as_markdown=as_markdown, as_json=as_json)


def check_files(output: Path | None, plot: Path | None) -> None:
    """Refuse before hours of measuring what could not be written after them.

    Raises:
        Error: a folder that does not exist or cannot be written, one in a file's place, or a suffix that no plot has.
        MissingDependencyError: a plot is wanted and matplotlib is not installed.
    """
    for what, path in (("report", output), ("plot", plot)):
        if path is None:
            continue
        if not path.parent.is_dir():
            raise Error(f"{what} '{path}': its directory does not exist (hint: create it first)")
        if path.is_dir():
            raise Error(f"{what} '{path}': is a directory, expected a file's name")
        if not os.access(path.parent, os.W_OK):
            raise Error(f"{what} '{path}': its directory cannot be written")
    if plot is not None:
        import metadeploy.plots  # noqa: F401 - says what is missing

        if plot.suffix.lower() not in (".png", ".svg"):
            raise Error(f"plot '{plot}': suffix is '{plot.suffix}', expected .png or .svg")


def refuse_input_as_output(output: Path | None, plot: Path | None, *inputs: Path) -> None:
    """Refuse to write the report or the plot over a measured file, or over each other.

    Raises:
        Error: two of them are the same file.
    """
    for what, path in (("report", output), ("plot", plot)):
        if path is not None:
            refuse_overwriting(path, *inputs, what=what)
    if output is not None and plot is not None and output.resolve() == plot.resolve():
        raise Error(f"report '{output}': is also the plot's file, expected two files")


def show(report: Report, *, output: Path | None, plot: Path | None, as_markdown: bool, as_json: bool) -> None:
    """Print a report, and write it where it was asked for."""
    from metadeploy.bench.report import markdown, remarks, table
    from metadeploy.cli._console import output as console
    from metadeploy.cli._console import print_json

    if output is not None:  # before anything is printed, which may fail
        write_json(output, report.as_json(), allow_nan=True)
    if plot is not None:
        from metadeploy.bench.plot import plot as draw

        draw(report, plot)
    if as_json:
        print_json(report.as_json())
    elif as_markdown:
        print(markdown(report), end="")
    else:
        screen = console()
        screen.print(table(report))
        for remark in remarks(report):
            screen.print(remark, markup=False)


def _counts(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"'{text}', expected whole numbers between commas", param_hint=f"'{option}'") from None
