"""``metadeploy collect``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from metadeploy._format import percent
from metadeploy._json import JSONFault, parse
from metadeploy.training.settings import CollectSettings

if TYPE_CHECKING:
    from rich.table import Table

    from metadeploy.checkpoint.run_dir import RunDir
    from metadeploy.training.summary import CategorySummary, SplitSummary

__all__ = ["register"]

#: So many of the best and of the worst categories are shown.
_MOST_CATEGORIES: Final = 5

_DEFAULTS: Final = CollectSettings(base="")

_EPILOG = """\
[bold]Examples[/bold]

  metadeploy collect runs/a --base SmolLM2.gguf                  [dim]# the built-in questions[/dim]

  metadeploy collect runs/b --base Qwen/Qwen3.5-4B --questions mmlu
      --answer-suffix ' Answer with the letter only.'
      --chat-template-kwargs '{"enable_thinking": false}'        [dim]# multiple choice, thinking off[/dim]

  metadeploy collect runs/c --base models/qwen --questions my.jsonl --limit 500

Each line of a .jsonl file: {"question": "…", "answers": ["…"], "category": "…"}; a folder with train.jsonl,
val.jsonl and test.jsonl is taken as it is split. Interrupted, the same command goes on where it was.
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="collect", epilog=_EPILOG, short_help="Ask a base model questions, and keep what goes on in it.")(
        _collect
    )


def _collect(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of this run; made where missing.")],
    base: Annotated[str, typer.Option(help="The base: a hub id, a folder in Hugging Face format, or a GGUF file.")],
    questions: Annotated[
        str, typer.Option(metavar="SET", help="facts, mmlu, triviaqa, gsm8k, a .jsonl file, or a folder.")
    ] = _DEFAULTS.questions,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="A local copy of mmlu, triviaqa or gsm8k: a file, or a folder, with the hub's columns.",
            show_default="from the hub",
        ),
    ] = None,
    layers: Annotated[
        str, typer.Option(help="Whose activations are kept, for train to read: late (the last third), all, 10-29.")
    ] = str(_DEFAULTS.layers),
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Of the base's weights.")
    ] = _DEFAULTS.dtype,
    quantization: Annotated[
        Literal["nf4", "fp4", "int8"] | None,
        typer.Option(help="Weights of the base through bitsandbytes.", show_default="none"),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Such as cpu or cuda:1; auto takes a GPU where there is one.")
    ] = _DEFAULTS.device,
    answer_suffix: Annotated[
        str | None, typer.Option(help="Appended to every question, here and later on.", show_default="none")
    ] = None,
    chat_template_kwargs: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Variables of the chat template, here and later on.", show_default="none"),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = _DEFAULTS.max_new_tokens,
    whole_answer: Annotated[
        bool, typer.Option("--whole-answer", help="Keep and judge the whole answer, not its first sentence.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions at once.")] = _DEFAULTS.batch_size,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Most questions of each split, drawn from all kinds.", show_default="all")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the questions drawn and of their split.")] = _DEFAULTS.seed,
    restart: Annotated[
        bool, typer.Option("--restart", help="Delete what an earlier collect left in RUN_DIR, and begin anew.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, and nothing else.")] = False,
) -> None:
    """Ask a base model questions, and keep its answers, whether they are right, and its activations.

    This is what a Doubter learns from. Nothing is trained yet, and the base is never changed.
    """
    variables = _template_variables(chat_template_kwargs)
    from metadeploy.cli._training import prepare_process, terminate_as_interrupt

    prepare_process()
    from metadeploy.checkpoint.run_dir import SPLITS, RunDir
    from metadeploy.cli._console import print_json
    from metadeploy.cli._progress import StageProgress
    from metadeploy.training.collect import CHUNK, collect
    from metadeploy.training.records import Collected

    settings = CollectSettings(
        base=base,
        questions=questions,
        source=source,
        layers=layers,
        dtype=dtype,
        quantization=quantization,
        device=device,
        answer_suffix=answer_suffix,
        chat_template_kwargs=variables,
        max_new_tokens=max_new_tokens,
        whole_answer=whole_answer,
        batch_size=batch_size,
        limit=limit,
        seed=seed,
    )
    n_done, n_all = 0, 0
    with terminate_as_interrupt(), StageProgress() as progress:

        def tell(done: int, total: int) -> None:
            nonlocal n_done, n_all
            n_done, n_all = done, total
            progress.stage("questions", done, total)

        try:
            run = RunDir(run_dir, create=True)
            progress.say(f"loading {base}")
            warnings = collect(run, settings, restart=restart, progress=tell, say=progress.say)
        except KeyboardInterrupt:
            kept = f"{n_done:,} of {n_all:,} questions were answered" if n_all else "no question was answered yet"
            progress.say(f"interrupted: {kept}; the same command goes on, at most {CHUNK} of them earlier")
            raise typer.Exit(130) from None
    records = {name: Collected.read(run.collect, name).records for name in SPLITS}
    from metadeploy.training.summary import by_category, by_split

    splits, categories = by_split(records), by_category(records)
    if as_json:
        print_json(_as_json(run, splits, categories, warnings))
    else:
        _show(run, splits, categories, warnings)


def _template_variables(text: str | None) -> dict[str, Any]:
    """The chat template's variables."""
    if text is None:
        return {}
    try:
        found = parse(text)
    except JSONFault as error:
        raise typer.BadParameter(f"is not JSON: {error}", param_hint="'--chat-template-kwargs'") from None
    if not isinstance(found, dict):
        raise typer.BadParameter('is not a JSON object such as {"a": 1}', param_hint="'--chat-template-kwargs'")
    return found


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
    for each in splits:
        table.add_row(each.split, f"{each.n:,}", percent(each.base_accuracy), percent(each.cut_off))
    return table


def _category_table(categories: Sequence[CategorySummary]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table("category", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("questions", justify="right")
    table.add_column("base is right", justify="right")
    gap = len(categories) > 2 * _MOST_CATEGORIES
    for place, each in enumerate(categories):
        if gap and place == _MOST_CATEGORIES:
            table.add_row(f"… {len(categories) - 2 * _MOST_CATEGORIES} more", "", "", style="dim")
        if not gap or not _MOST_CATEGORIES <= place < len(categories) - _MOST_CATEGORIES:
            table.add_row(escape(each.category), f"{each.n:,}", percent(each.base_accuracy))
    return table
