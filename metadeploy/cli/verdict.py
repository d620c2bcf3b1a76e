"""``metadeploy verdict``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from metadeploy.cli._flags import Flag, Panel, takes, threads_flag
from metadeploy.verdict.settings import VerdictSettings

if TYPE_CHECKING:
    from metadeploy.verdict.run import TrainedVerdict

__all__ = ["register"]

_EPILOG = """\
[bold]Examples[/bold]

  metadeploy verdict runs/v --base base.gguf --sidecar doubter.gguf      [dim]# the built-in questions[/dim]

  metadeploy verdict runs/v --base base.gguf --sidecar doubter.gguf --questions my.jsonl --limit 4000

  llama-meta-generate -m base.gguf --meta runs/v/verdict_sidecar.gguf --max-error 0.25 -p 'Who wrote Faust?'

The base answers alone while it is asked, in its own type and on this machine, so that the verdicts fit the file that
runs. If you interrupt it, the same command continues.
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="verdict", epilog=_EPILOG, short_help="Train a head that judges finished answers.")(_verdict)


_FLAGS: Final = Panel(
    None,
    VerdictSettings(base=Path(), sidecar=Path()),
    questions=Flag("Questions: facts, a set, a folder with splits, or a .jsonl file."),
    source=Flag("A local copy of that set.", str | None, more={"metavar": "PATH", "show_default": "from the hub"}),
    limit=Flag("Maximum number of questions in each part.", int | None, more={"min": 1, "show_default": "all"}),
    seed=Flag("Seed of the questions, the parts and the training.", more={"min": 0}),
    max_new_tokens=Flag("Maximum number of tokens of an answer.", more={"min": 1}),
    whole_answer=Flag("Judge whole answers, not their first sentences.", names=("--whole-answer",)),
    prompt_layers=Flag(
        "Layers to read at the prompt's last token, such as 16.",
        str | None,
        more={"show_default": "one of four, chosen on val"},
    ),
    answer_layers=Flag(
        "Layers to average over the answer, such as 15,20.",
        str | None,
        more={"show_default": "two of six, chosen on val"},
    ),
    n_hidden=Flag("Hidden units of each network.", names=("--hidden",), more={"min": 1, "max": 1024}),
    n_networks=Flag("Networks whose logits are averaged.", names=("--networks",), more={"min": 1, "max": 4}),
    epochs=Flag("Passes over the training questions.", more={"min": 1}),
    delta=Flag("Probability that a guarantee may fail.", more={"min": 0.001, "max": 0.5}),
    n_resamples=Flag("Draws of the bootstrap that compares with baselines.", names=("--resamples",), more={"min": 1}),
    threads=threads_flag("Threads of the runtime and of the training."),
)


@takes(_FLAGS)
def _verdict(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder for the answers, the figures and the new sidecar.")
    ],
    base: Annotated[Path, typer.Option(help="GGUF of the base, in the type that you will run.")],
    sidecar: Annotated[Path, typer.Option(help="Sidecar to which the head is added, in a copy.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else.")] = False,
    **flags: Any,
) -> None:
    """Train a verdict head: it reads an answer's activations and returns the probability that the answer is wrong.

    Asks the base questions in the compiled runtime, trains the head on them, calibrates it on questions of its own, and
    looks for thresholds with a guaranteed error rate. Writes verdict_sidecar.gguf and verdict.json.
    """
    from metadeploy.cli._console import print_json
    from metadeploy.cli._progress import StageProgress
    from metadeploy.cli._training import prepare_process, terminate_as_interrupt

    prepare_process()
    from metadeploy.verdict.run import train_verdict

    settings = VerdictSettings(base=base, sidecar=sidecar)
    for name in ("prompt_layers", "answer_layers"):
        flags[name] = _layers(flags[name], f"--{name.replace('_', '-')}")
    settings = replace(settings, **flags)
    with terminate_as_interrupt(), StageProgress() as progress:
        try:
            trained = train_verdict(folder, settings, stage=progress.stage)
        except KeyboardInterrupt:
            progress.say("interrupted: the same command continues")
            raise typer.Exit(130) from None
    if as_json:
        print_json(trained.results)
    else:
        _show(trained)


def _layers(text: str | None, flag: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise typer.BadParameter(f"'{text}', expected layers such as 15,20", param_hint=f"'{flag}'")
    return tuple(int(part) for part in parts)


def _show(trained: TrainedVerdict) -> None:
    from rich.table import Table

    from metadeploy._exact import percent
    from metadeploy.cli._console import output
    from metadeploy.cli._verdicts import show_guarantees

    console, results = output(), trained.results
    test = results["test"]
    table = Table(title="test questions", title_justify="left", box=None, header_style="dim")
    for column in ("score", "AUROC", "within kinds", "verdict ahead by (AUROC)", "(within kinds)"):
        table.add_column(column, justify="left" if column == "score" else "right")
    for name, row in {"verdict": test, **results["baselines"]}.items():
        ahead = row.get("ahead", {})
        figures = (_figure(row["auroc"]), _figure(row["macro_auroc"]))
        table.add_row(name, *figures, _ahead(ahead.get("auroc")), _ahead(ahead.get("macro_auroc")))
    console.print(table)
    floor = test["ece_noise_floor"]
    console.print(f"ECE {test['ece']:.3f} (perfect: {floor:.3f} on as many), Brier score {test['brier']:.3f}")
    for coverage, accuracy in test["selective_accuracy"].items():
        console.print(f"right of the least doubted {percent(float(coverage), 0)}%: {percent(accuracy)}%")
    show_guarantees(console, results["guarantees"], results["config"]["delta"])
    for path in (*trained.plots, trained.path, trained.sidecar):
        console.print(str(path), markup=False, soft_wrap=True)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _ahead(difference: dict[str, Any] | None) -> str:
    """Return a difference with its 95 % interval."""
    if difference is None or difference["low"] is None:
        return ""
    return "{value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**difference)
