"""``metadeploy collect``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from metadeploy._format import percent
from metadeploy._json import JSONFault, parse
from metadeploy._types import DType, Quantization
from metadeploy.cli._flags import Flag, Panel, takes
from metadeploy.training.settings import CollectSettings

if TYPE_CHECKING:
    from rich.table import Table

    from metadeploy.checkpoint.run_dir import RunDir
    from metadeploy.training.summary import CategorySummary, SplitSummary

__all__ = ["register"]

#: The table shows this many of the best categories, and as many of the worst.
_SHOWN_CATEGORIES: Final = 5

_DEFAULTS: Final = CollectSettings(base="")

_EPILOG = """\
[bold]Examples[/bold]

  metadeploy collect runs/a --base SmolLM2.gguf                  [dim]# the built-in questions[/dim]

  metadeploy collect runs/b --base Qwen/Qwen3.5-4B --questions mmlu
      --answer-suffix ' Answer with the letter only.'
      --chat-template-kwargs '{"enable_thinking": false}'        [dim]# multiple choice, thinking off[/dim]

  metadeploy collect runs/c --base models/qwen --questions my.jsonl --limit 500

Each line of a .jsonl file: {"question": "…", "answers": ["…"], "category": "…"}. A folder with train.jsonl,
val.jsonl and test.jsonl keeps its splits. If you interrupt it, the same command continues.
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        name="collect", epilog=_EPILOG, short_help="Ask a base model questions, and store its answers and activations."
    )(_collect)


_FLAGS: Final = Panel(
    None,
    _DEFAULTS,
    questions=Flag("facts, mmlu, triviaqa, gsm8k, a .jsonl file, or a folder.", more={"metavar": "SET"}),
    source=Flag(
        "A local copy of mmlu, triviaqa or gsm8k: a file or a folder, with the hub's columns.",
        str | None,
        more={"metavar": "PATH", "show_default": "from the hub"},
    ),
    layers=Flag("Layers whose activations are stored for train: late (the last third), all, 10-29.", str),
    dtype=Flag("Type of the base's weights.", DType),
    quantization=Flag(
        "Quantize the base's weights with bitsandbytes.", Quantization | None, more={"show_default": "none"}
    ),
    device=Flag("Torch device, such as cpu or cuda:1; auto takes a GPU if there is one."),
    answer_suffix=Flag(
        "Text to append to every question, here and in later commands.", str | None, more={"show_default": "none"}
    ),
    chat_template_kwargs=Flag(
        "Variables of the chat template, here and in later commands.",
        str | None,
        None,
        more={"metavar": "JSON", "show_default": "none"},
    ),
    max_new_tokens=Flag("Maximum number of tokens of an answer.", more={"min": 1}),
    whole_answer=Flag("Store and check the whole answer, not its first sentence.", names=("--whole-answer",)),
    batch_size=Flag("Questions at once.", more={"min": 1}),
    limit=Flag(
        "Maximum number of questions of each split, drawn from all kinds.",
        int | None,
        more={"min": 1, "show_default": "all"},
    ),
    seed=Flag("Seed that draws the questions and splits them.", more={"min": 0}),
)


@takes(_FLAGS)
def _collect(
    run_dir: Annotated[
        Path, typer.Argument(metavar="RUN_DIR", help="The folder of this run; created if it does not exist.")
    ],
    base: Annotated[str, typer.Option(help="The base: a hub id, a folder in Hugging Face format, or a GGUF file.")],
    *,
    restart: Annotated[
        bool, typer.Option("--restart", help="Delete the results of an earlier collect in RUN_DIR, and start again.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, and nothing else.")] = False,
    **flags: Any,
) -> None:
    """Ask a base model questions. Store its answers, whether they are right, and its activations.

    A Doubter learns from these. Nothing is trained yet, and the base is never changed.
    """
    variables = _template_variables(flags["chat_template_kwargs"])
    from metadeploy.cli._training import prepare_process

    prepare_process()
    from metadeploy.checkpoint.run_dir import SPLITS, RunDir
    from metadeploy.cli._console import print_json
    from metadeploy.training.records import Collected
    from metadeploy.training.summary import by_category, by_split

    settings = CollectSettings(base=base, **{**flags, "chat_template_kwargs": variables})
    run = RunDir(run_dir, create=True)
    warnings = _ask(run, settings, restart=restart)
    records = {name: Collected.read(run.collect, name).records for name in SPLITS}
    splits, categories = by_split(records), by_category(records)
    if as_json:
        print_json(_as_json(run, splits, categories, warnings))
    else:
        _show(run, splits, categories, warnings)


def _ask(run: RunDir, settings: CollectSettings, *, restart: bool) -> Sequence[str]:
    """Ask all questions, and show the progress. Return the warnings."""
    from metadeploy.cli._progress import StageProgress
    from metadeploy.cli._training import terminate_as_interrupt
    from metadeploy.training.collect import CHUNK, collect

    n_answered, n_questions = 0, 0
    with terminate_as_interrupt(), StageProgress() as progress:

        def show(n_done: int, total: int) -> None:
            nonlocal n_answered, n_questions
            n_answered, n_questions = n_done, total
            progress.stage("questions", n_done, total)

        try:
            progress.say(f"loading {settings.base}")
            return collect(run, settings, restart=restart, progress=show, say=progress.say)
        except KeyboardInterrupt:
            state = (
                f"{n_answered:,} of {n_questions:,} questions were answered"
                if n_questions
                else "no question was answered yet"
            )
            progress.say(f"interrupted: {state}; the same command continues, at most {CHUNK} of them earlier")
            raise typer.Exit(130) from None


def _template_variables(text: str | None) -> dict[str, Any]:
    """Parse the chat template's variables."""
    if text is None:
        return {}
    try:
        variables = parse(text)
    except JSONFault as error:
        raise typer.BadParameter(f"is not JSON: {error}", param_hint="'--chat-template-kwargs'") from None
    if not isinstance(variables, dict):
        raise typer.BadParameter('is not a JSON object such as {"a": 1}', param_hint="'--chat-template-kwargs'")
    return variables


def _as_json(
    run: RunDir, splits: Sequence[SplitSummary], categories: Sequence[CategorySummary], warnings: Sequence[str]
) -> dict[str, Any]:
    return {
        "run_dir": str(run.path),
        "base": run.manifest["model_name"],
        "questions": run.manifest["dataset"],
        "layers": run.manifest["collect"]["layers"],
        "splits": [asdict(split) for split in splits],
        "categories": [asdict(category) for category in categories],
        "warnings": list(warnings),
    }


def _show(
    run: RunDir, splits: Sequence[SplitSummary], categories: Sequence[CategorySummary], warnings: Sequence[str]
) -> None:
    from rich.markup import escape

    from metadeploy.cli._console import output

    console = output()
    console.print(_split_table(splits))
    console.print(_category_table(categories))
    for warning in warnings:
        console.print(f"[yellow]warning:[/yellow] {escape(warning)}", soft_wrap=True)
    console.print(f"\nnext: metadeploy train {escape(str(run.path))}", soft_wrap=True)


def _split_table(splits: Sequence[SplitSummary]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table("split", box=SIMPLE_HEAD, pad_edge=False)
    for title in ("questions", "base is right", "answer cut off"):
        table.add_column(title, justify="right")
    for split in splits:
        table.add_row(split.split, f"{split.n:,}", percent(split.base_accuracy), percent(split.cut_off))
    return table


def _category_table(categories: Sequence[CategorySummary]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table("category", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("questions", justify="right")
    table.add_column("base is right", justify="right")
    n_hidden = len(categories) - 2 * _SHOWN_CATEGORIES
    for index, category in enumerate(categories):
        if n_hidden > 0 and index == _SHOWN_CATEGORIES:
            table.add_row(f"… {n_hidden} more", "", "", style="dim")
        if n_hidden <= 0 or not _SHOWN_CATEGORIES <= index < len(categories) - _SHOWN_CATEGORIES:
            table.add_row(escape(category.category), f"{category.n:,}", percent(category.base_accuracy))
    return table
