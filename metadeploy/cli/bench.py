"""``metadeploy bench``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from metadeploy._files import refuse_overwriting, write_json
from metadeploy.bench.settings import PARTS, BenchSettings
from metadeploy.cli._flags import Flag, Panel, takes, threads_flag
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

  metadeploy bench -o bench.json --plot bench.svg --markdown         [dim]# files to keep and to show[/dim]
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="bench", epilog=_EPILOG, short_help="Measure what a Doubter costs its base.")(_bench)


_DEFAULTS: Final = BenchSettings(base=Path(), sidecar=Path())
_FLAGS: Final = Panel(
    None,
    _DEFAULTS,
    base=Flag("The base as GGUF.", Path | None, None, more={"show_default": "the demo's, with its sidecar"}),
    sidecar=Flag("A sidecar for it.", Path | None, None),
    parts=Flag("Parts to measure, separated by commas.", default=",".join(PARTS)),
    prompts=Flag("Lengths of prompts in tokens, separated by commas.", default=",".join(map(str, _DEFAULTS.prompts))),
    sequences=Flag(
        "Numbers of sequences to decode at once, separated by commas.",
        default=",".join(map(str, _DEFAULTS.sequences)),
    ),
    pairs=Flag("Measurements of each side of a ratio.", more={"min": 1}),
    steps=Flag("Tokens of an answer in each measurement.", more={"min": 2}),
    inject_from=Flag(
        "Where the injection begins in the prompts: the cost if the wrapper were trained so.",
        Literal["prompt", "last_prompt_token", "both"] | None,
        None,
        more={"show_default": "as the sidecar says"},
    ),
    threads=threads_flag("Threads."),
)


@takes(_FLAGS)
def _bench(
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="The shortest form: shows that everything runs; its figures say little.")
    ] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Also write the report as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the report: .png or .svg.")] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, and nothing else.")] = False,
    **flags: Any,
) -> None:
    """Measure a base with its Doubter against the base alone. The two take turns in one process.

    Measures prompts with two passes and with one, decoding of one sequence and of several, generate_batch, loading of
    the sidecar, and encoder and decoding next to a busy process. Shows each as a ratio of pairs, with its limit on
    paper.
    """
    from metadeploy.bench import run_bench
    from metadeploy.cli._progress import StageProgress
    from metadeploy.cli.demo import demo_files

    base, sidecar, inject_from = flags["base"], flags["sidecar"], flags["inject_from"]
    if (base is None) != (sidecar is None):
        raise typer.BadParameter("give both, or none for the demo's", param_hint="'--base', '--sidecar'")
    if as_json and as_markdown:
        raise typer.BadParameter("give either --json or --markdown", param_hint="'--markdown'")
    check_files(output, plot)
    if base is None:
        base, sidecar = demo_files()
    refuse_input_as_output(output, plot, base, sidecar)
    modes: tuple[InjectFrom, ...] = ()
    if inject_from is not None:
        modes = ("prompt", "last_prompt_token") if inject_from == "both" else (inject_from,)
    settings = BenchSettings(
        base=base,
        sidecar=sidecar,
        prompts=_counts(flags["prompts"], "--prompts"),
        sequences=_counts(flags["sequences"], "--sequences"),
        pairs=flags["pairs"],
        steps=flags["steps"],
        modes=modes,
        parts=tuple(part.strip() for part in flags["parts"].split(",")),
        threads=flags["threads"],
    )
    with StageProgress() as progress:
        report = run_bench(settings.quick() if quick else settings, tick=progress.stage)
    show(report, output=output, plot=plot, as_markdown=as_markdown, as_json=as_json)


def check_files(output: Path | None, plot: Path | None) -> None:
    """Refuse output files that cannot be written, before hours of measuring.

    Raises:
        Error: the directory does not exist or cannot be written, the path is a directory, or the plot's suffix is
            unknown.
        MissingDependencyError: a plot is requested and matplotlib is not installed.
    """
    for name, path in (("report", output), ("plot", plot)):
        if path is None:
            continue
        if not path.parent.is_dir():
            raise Error(f"{name} '{path}': its directory does not exist (hint: create it first)")
        if path.is_dir():
            raise Error(f"{name} '{path}': is a directory, expected a file's name")
        if not os.access(path.parent, os.W_OK):
            raise Error(f"{name} '{path}': its directory cannot be written")
    if plot is not None:
        import metadeploy.plots  # noqa: F401 - raises MissingDependencyError without matplotlib

        if plot.suffix.lower() not in (".png", ".svg"):
            raise Error(f"plot '{plot}': suffix is '{plot.suffix}', expected .png or .svg")


def refuse_input_as_output(output: Path | None, plot: Path | None, *inputs: Path) -> None:
    """Refuse to write the report or the plot over a measured file, or over each other.

    Raises:
        Error: two of them are the same file.
    """
    for name, path in (("report", output), ("plot", plot)):
        if path is not None:
            refuse_overwriting(path, *inputs, what=name)
    if output is not None and plot is not None and output.resolve() == plot.resolve():
        raise Error(f"report '{output}': is also the plot's file, expected two files")


def show(report: Report, *, output: Path | None, plot: Path | None, as_markdown: bool, as_json: bool) -> None:
    """Print a report, and write the requested files."""
    from metadeploy.bench.report import markdown, remarks, table
    from metadeploy.cli._console import output as console
    from metadeploy.cli._console import print_json

    if output is not None:  # first, because printing may fail
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
        return tuple(int(count) for count in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"'{text}', expected whole numbers separated by commas", param_hint=f"'{option}'"
        ) from None
