"""A ladder's results as tables: for a terminal, and as Markdown for the docs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from metadeploy import _exact
from metadeploy._format import NONE, percent

__all__ = ["markdown", "remarks", "tables"]


@dataclass(frozen=True)
class _Grid:
    """A table of texts: its title, the columns' titles, the rows; the first column names the rung."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(results: Mapping[str, Any]) -> Iterator[Table]:
    """What a ladder found, for a terminal."""
    for grid in _grids(results):
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=grid.title, title_justify="left")
        for place, title in enumerate(grid.columns):
            table.add_column(escape(title), justify="right" if place else "left", no_wrap=not place)
        for row in grid.rows:
            table.add_row(*map(escape, row))
        yield table


def markdown(results: Mapping[str, Any]) -> str:
    """The same, ready for the docs, and what the figures rest on."""
    parts = [_markdown_table(grid) for grid in _grids(results)]
    parts.append("\n".join(f"- {line}" for line in remarks(results)))
    return "\n\n".join(parts) + "\n"


def _markdown_table(grid: _Grid) -> str:
    rules = ("---", *("---:" for _ in grid.columns[1:]))
    lines = [f"| {' | '.join(cells)} |" for cells in (grid.columns, rules, *grid.rows)]
    return "\n".join([f"**{grid.title}**", "", *lines])


def _grids(results: Mapping[str, Any]) -> tuple[_Grid, ...]:
    rungs, reference = results["rungs"], results["reference"]
    files = {row["base"]: row["files"]["base"] for row in rungs}
    return (
        _Grid(
            "How near to PyTorch F32",
            ("type", "activations", "cognitive tokens", "decisions agree", "declines", "answers", "doubt differs by"),
            tuple((row["name"], *_nearness(row)) for row in rungs),
        ),
        _Grid(
            "What that comes to",
            ("type", "base accuracy", "coverage", "selective accuracy", "refusal precision", "over-refusal"),
            tuple((row["name"], *_outcome(row["metrics"])) for row in (reference, *rungs)),
        ),
        _Grid(
            "Size and speed",
            ("type", "base file", "sidecar", "prompt, base", "with Doubter", "answer, base", "with Doubter"),
            tuple((row["name"], *_cost(row)) for row in rungs),
        ),
        _Grid(
            "What the base files are made of",
            ("type asked for", "types of the matrices, and their share of the weights", "no K type possible"),
            tuple((kind, *_made_of(file)) for kind, file in files.items()),
        ),
    )


def _nearness(row: Mapping[str, Any]) -> tuple[str, ...]:
    decisions = row["decisions"]
    cosines = (f"{row[key]['mean']:.5f} ({row[key]['least']:.4f})" for key in ("activations", "cognitive_tokens"))
    return (
        *cosines,
        _with_interval(decisions["agree"]),
        str(decisions["declines_instead"]),
        str(decisions["answers_instead"]),
        f"{row['doubt_difference']['mean']:.4f}",
    )


def _outcome(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        _share(metrics["base_accuracy"]["value"]),
        _share(metrics["coverage"]["value"]),
        _with_interval(metrics["selective_accuracy"]),
        _share(metrics["refusal_precision"]["value"]),
        _share(metrics["over_refusal_rate"]["value"]),
    )


def _cost(row: Mapping[str, Any]) -> tuple[str, ...]:
    sizes = (f"{row['files'][part]['size'] / 1e6:,.1f} MB" for part in ("base", "sidecar"))
    rates = (_rate(row["speed"][who][what]) for what in ("prompt", "decode") for who in ("base", "doubter"))
    return (*sizes, *rates)


def _made_of(file: Mapping[str, Any]) -> tuple[str, ...]:
    types = (f"{count} {kind} ({_share(file['weights'][kind])})" for kind, count in file["matrices"].items())
    return ", ".join(types), f"{file['no_k_type']} of {sum(file['matrices'].values())}"


def remarks(results: Mapping[str, Any]) -> Iterator[str]:
    """What the figures rest on."""
    config, environment = results["config"], results["environment"]
    cache = {
        "f32": "keys and values in F32, no flash attention: only the weights differ",
        "f16": "keys and values in F16, flash attention where it helps: as the runtime has it by itself",
    }
    yield (
        f"n = {results['n']:,} questions of {config['split']} (seed {config['seed']}), threshold "
        f"{config['threshold']:g}; base `{config['base']['name']}`; {cache[config['cache_type']]}."
    )
    yield (
        "Activations, cognitive tokens: cosine with PyTorch's, mean over questions and layers (or tokens), in brackets "
        "the least of all. Decision: to answer or to decline; of those that do not agree, how many decline, or answer, "
        "in place of what PyTorch does. Doubt: mean absolute difference."
    )
    yield (
        "Refusal precision: of what is declined, the share that the base of that type gets wrong. Over-refusal: of "
        "what it gets right, the share that is declined. In square brackets 95 % intervals."
    )
    threads = "threads by default" if config["threads"] is None else f"threads: {config['threads']}"
    yield (
        "Speed: tokens a second, median over questions, in brackets the quartiles; of the prompt until the first token "
        "can be chosen (with the Doubter both passes), of the answer from its second token on. An indication, for the "
        f"types were measured one after the other ({threads}, CPUs: {environment['cpu_count']})."
    )
    yield (
        "Types: read from each file's tensors. A file type is a recipe: llama.cpp takes a larger type where it matters "
        "most, and another type than a K type for matrices whose rows are no multiple of 256."
    )
    yield from (f"Note: {note}." for note in results["notes"])


def _with_interval(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return NONE
    return f"{_share(row['value'])} [{_exact.percent(row['low'])}–{_exact.percent(row['high'])}]"


def _share(value: float | None) -> str:
    return percent(value, unit=" %")


def _rate(row: Mapping[str, Any]) -> str:
    if row["median"] is None:
        return NONE
    return f"{row['median']:,.0f} ({row['low']:,.0f}–{row['high']:,.0f})"
