"""``metadeploy demo``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from metadeploy._format import NONE, percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from metadeploy.data.question import Question
    from metadeploy.demo.answers import Answer, Pair, Scores, Share
    from metadeploy.demo.assets import Demo

__all__ = ["demo_files", "register"]

_DEFAULT_COUNT: Final = 12
#: The keys of `metadeploy.demo.assets.DEMOS`.
_Key = Literal["smollm2-135m", "qwen2.5-coder-0.5b"]
#: With more questions than this, the table has one row for each kind of question.
_MAX_ROWS: Final = 40
#: Maximum width of the table; longer lines are hard to read.
_MAX_WIDTH: Final = 110
#: A question and two short answers, with room for the prompt's template.
_N_CTX: Final = 512

_EPILOG = """\
[bold]Examples[/bold]

  metadeploy demo                       [dim]# downloads a small model the first time (93 MB)[/dim]

  metadeploy demo --all                 [dim]# all questions: some minutes[/dim]

  metadeploy demo -n 20 --seed 7        [dim]# other questions[/dim]

  metadeploy demo --gain 0.5            [dim]# a weaker injection[/dim]

  metadeploy demo --base qwen2.5-coder-0.5b   [dim]# a larger model (478 MB the first time)[/dim]
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="demo", epilog=_EPILOG, short_help="See a real, small model decline what it does not know.")(_demo)


def _demo(
    count: Annotated[
        int | None,
        typer.Option("-n", "--questions", min=1, help="How many questions.", show_default=str(_DEFAULT_COUNT)),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Ask all questions.")] = False,
    key: Annotated[_Key, typer.Option("--base", help="The base model.")] = "smollm2-135m",
    seed: Annotated[
        int | None, typer.Option(help="Seed that draws the questions.", show_default="one that shows every outcome")
    ] = None,
    gain: Annotated[float, typer.Option(help="Strength of the injection; 0 is the base exactly.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, and nothing else.")] = False,
) -> None:
    """Ask a small model questions, alone and with its trained Doubter.

    The first run downloads the base model, SmolLM2-135M-Instruct or Qwen2.5-Coder-0.5B-Instruct (both Apache-2.0), to a
    cache folder; METADEPLOY_CACHE names another folder. Later runs need no network.
    """
    from metadeploy.cli._console import print_json
    from metadeploy.demo.answers import score
    from metadeploy.demo.assets import DEMOS
    from metadeploy.demo.questions import load_questions, pick

    demo = DEMOS[key]
    questions = load_questions()
    if everything and count is not None:
        raise typer.BadParameter("give either a number of questions or --all, not both", param_hint="'--all'")
    if count is not None and count > len(questions):
        raise typer.BadParameter(f"{count}, but there are {len(questions)} questions", param_hint="'--questions'")
    if not math.isfinite(gain):
        raise typer.BadParameter(f"{gain} is not a finite number", param_hint="'--gain'")
    n_asked = len(questions) if everything else count or _DEFAULT_COUNT
    chosen = pick(questions, n_asked, seed=demo.seed if seed is None else seed)
    base, sidecar = demo_files(demo)
    pairs, refusal = _ask(base, sidecar, chosen, gain)
    scores = score(pairs)
    if as_json:
        print_json(_as_json(demo, base, sidecar, gain, pairs, scores))
    else:
        _show(demo, pairs, scores, refusal, len(questions))
        _show_files(base, sidecar)


def demo_files(demo: Demo | None = None) -> tuple[Path, Path]:
    """Return base and sidecar of a demo, by default of SmolLM2's. Fetch and export them if they do not exist yet."""
    import sys

    from metadeploy.cli._console import progress_bar
    from metadeploy.demo import assets

    demo = demo or assets.SMOLLM2
    base, sidecar = assets.cached_base_model(demo), assets.cached_sidecar(demo)
    if base is None:
        what = f"{demo.base_name} ({demo.license}, {demo.base.download_size / 1e6:.0f} MB)"
        print(f"downloading {what} once, into {assets.cache_dir()}", file=sys.stderr)
        with progress_bar("downloading") as progress:
            base = assets.base_model_path(demo, progress=progress)
    if sidecar is None:
        with progress_bar("exporting the Doubter") as progress:
            sidecar = assets.sidecar_path(base, demo, progress=progress)
    return base, sidecar


def _ask(base: Path, sidecar: Path, questions: Sequence[Question], gain: float) -> tuple[list[Pair], str]:
    """Ask all questions. Also return the Doubter's refusal."""
    from metadeploy.demo.answers import ask
    from metadeploy.runtime import MetaLlama

    with MetaLlama(base, sidecar, n_ctx=_N_CTX) as llm:
        return list(_counted(ask(llm, questions, gain=gain), len(questions))), llm.refusal_text


def _counted(pairs: Iterator[Pair], total: int) -> Iterator[Pair]:
    """Yield the pairs, and show their number on stderr if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield from progress.track(pairs, total=total, description="asking base and Doubter")


# -- JSON


def _as_json(
    demo: Demo, base: Path, sidecar: Path, gain: float, pairs: Sequence[Pair], scores: Scores
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "base": {"path": str(base), "name": demo.base_name, "license": demo.license},
        "sidecar": {"path": str(sidecar)},
        "gain": gain,
        "scores": {
            name: {**share, "value": getattr(scores, name).value, "interval": getattr(scores, name).interval}
            for name, share in asdict(scores).items()
        },
        "questions": [
            {
                "question": pair.question.question,
                "accepted": list(pair.question.answers),
                "category": pair.question.category,
                "base": asdict(pair.base),
                "doubter": asdict(pair.doubter),
            }
            for pair in pairs
        ],
    }


# -- for people


def _show(demo: Demo, pairs: Sequence[Pair], scores: Scores, refusal: str, n_all: int) -> None:
    from rich.markup import escape

    from metadeploy.cli._console import output

    console = output()
    if len(pairs) <= _MAX_ROWS:
        marks = _marks(console)
        console.print(_question_table(pairs, marks, min(console.width, _MAX_WIDTH)))
        legend = "   ".join(f"{mark} {what}" for what, mark in marks.items())
        console.print(f"{legend}: [italic]{escape(refusal)}[/italic]\n")
    else:
        console.print(_kind_table(pairs))
    console.print(_summary(scores))
    if len(pairs) < n_all:
        console.print(
            f"\n{len(pairs)} questions prove little, as the intervals show: {demo.command} --all asks {n_all}.",
            soft_wrap=True,
        )
    console.print(demo.remark, soft_wrap=True)


def _marks(console: Console) -> dict[str, str]:
    ascii_only = console.options.ascii_only
    return {
        "right": f"[green]{'+' if ascii_only else '✓'}[/green]",
        "wrong": f"[red]{'x' if ascii_only else '✗'}[/red]",
        "declined": f"[yellow]{'-' if ascii_only else '–'}[/yellow]",
    }


def _question_table(pairs: Sequence[Pair], marks: Mapping[str, str], width: int) -> Table:
    """Build a table with a row for each question."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    from metadeploy.data.checker import first_sentence

    def cell(answer: Answer) -> str:
        if answer.declined:
            return f"{marks['declined']} [yellow]declined[/yellow]"
        sentence = first_sentence(answer.text)
        ellipsis = "" if re.search(r"[.!?]\W*$", sentence) else " …"
        return f"{marks['right' if answer.right else 'wrong']} {escape(sentence)}{ellipsis}"

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), width=width)
    for title, ratio in (("question", 6), ("accepted", 3), ("base alone", 7), ("with the Doubter", 6)):
        table.add_column(title, ratio=ratio, overflow="fold")
    for pair in pairs:
        accepted = " / ".join(pair.question.answers)
        table.add_row(escape(pair.question.question), escape(accepted), cell(pair.base), cell(pair.doubter))
    return table


def _kind_table(pairs: Sequence[Pair]) -> Table:
    """Build a table with a row for each kind of question."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from metadeploy.demo.answers import score
    from metadeploy.demo.questions import KINDS

    kinds: dict[str, list[Pair]] = {}
    for pair in pairs:
        kinds.setdefault(pair.question.category, []).append(pair)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("kind of question")
    for title in ("asked", "base right", "Doubter answers", "right of the answered"):
        table.add_column(title, justify="right")
    for kind in sorted(kinds, key=lambda kind: KINDS[kind].casefold()):
        scores = score(kinds[kind])
        shares = (scores.base_accuracy, scores.coverage, scores.selective_accuracy)
        table.add_row(KINDS[kind], str(len(kinds[kind])), *(str(share.hits) for share in shares))
    return table


def _summary(scores: Scores) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("", no_wrap=True)
    for title in ("count", "share", "95 % interval"):
        table.add_column(title, justify="right", no_wrap=True, header_style="dim")

    def row(label: str, share: Share) -> None:
        if share.value is None or share.interval is None:
            table.add_row(label, f"{share.hits} of {share.total}", NONE, NONE)
        else:
            low, high = share.interval
            value, interval = percent(share.value, 0), f"{percent(low, 0)} to {percent(high, 0)}"
            table.add_row(label, f"{share.hits} of {share.total}", value, interval)

    row("base accuracy: right of all", scores.base_accuracy)
    row("coverage: the Doubter answers", scores.coverage)
    row("selective accuracy: right of the answered", scores.selective_accuracy)
    row("declined of the base's errors", scores.errors_declined)
    row("declined of the base's right answers", scores.right_declined)
    return table


def _show_files(base: Path, sidecar: Path) -> None:
    import shlex

    from metadeploy.cli._console import output

    model, meta = shlex.quote(str(base)), shlex.quote(str(sidecar))
    text = (
        f"\nbase     {base}\nsidecar  {sidecar}\n\nNext\n\n"
        f"  llama-meta-generate -m {model} --meta {meta} -p 'What is the plural of wolf?'\n\n"
        "Add --compare to see the base's answer as well."
    )
    output().print(text, markup=False, soft_wrap=True)
