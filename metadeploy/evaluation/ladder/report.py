"""Formats the results of a ladder as tables, for a terminal and as Markdown."""

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
    """A table of texts with its title and the titles of its columns. The first column names the rung."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(results: Mapping[str, Any]) -> Iterator[Table]:
    """Yield the tables for a terminal."""
    for grid in _grids(results):
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=grid.title, title_justify="left")
        for column, title in enumerate(grid.columns):
            table.add_column(escape(title), justify="right" if column else "left", no_wrap=not column)
        for row in grid.rows:
            table.add_row(*map(escape, row))
        yield table


def markdown(results: Mapping[str, Any]) -> str:
    """Format the tables in Markdown, with the remarks below them."""
    blocks = [_markdown_table(grid) for grid in _grids(results)]
    blocks.append("\n".join(f"- {remark}" for remark in remarks(results)))
    return "\n\n".join(blocks) + "\n"


def _markdown_table(grid: _Grid) -> str:
    rules = ("---", *("---:" for _ in grid.columns[1:]))
    lines = [f"| {' | '.join(cells)} |" for cells in (grid.columns, rules, *grid.rows)]
    return "\n".join([f"**{grid.title}**", "", *lines])


def _grids(results: Mapping[str, Any]) -> tuple[_Grid, ...]:
    rungs, reference = results["rungs"], results["reference"]
    files = {row["base"]: row["files"]["base"] for row in rungs}
    return (
        _Grid(
            "Agreement with PyTorch F32",
            ("type", "activations", "cognitive tokens", "decisions agree", "declines", "answers", "doubt differs by"),
            tuple((row["name"], *_agreement(row)) for row in rungs),
        ),
        _Grid(
            "Metrics",
            ("type", "base accuracy", "coverage", "selective accuracy", "refusal precision", "over-refusal"),
            tuple((row["name"], *_outcome(row["metrics"])) for row in (reference, *rungs)),
        ),
        _Grid(
            "Size and speed",
            ("type", "base file", "sidecar", "prompt, base", "with Doubter", "answer, base", "with Doubter"),
            tuple((row["name"], *_cost(row)) for row in rungs),
        ),
        _Grid(
            "Types in the base files",
            ("file type", "types of the matrices, and their share of the weights", "no K type possible"),
            tuple((kind, *_types(file)) for kind, file in files.items()),
        ),
    )


def _agreement(row: Mapping[str, Any]) -> tuple[str, ...]:
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
    sizes = (f"{row['files'][file]['size'] / 1e6:,.1f} MB" for file in ("base", "sidecar"))
    rates = (_rate(row["speed"][model][stage]) for stage in ("prompt", "decode") for model in ("base", "doubter"))
    return (*sizes, *rates)


def _types(file: Mapping[str, Any]) -> tuple[str, ...]:
    types = (f"{count} {kind} ({_share(file['weights'][kind])})" for kind, count in file["matrices"].items())
    return ", ".join(types), f"{file['no_k_type']} of {sum(file['matrices'].values())}"


def remarks(results: Mapping[str, Any]) -> Iterator[str]:
    """Yield sentences about the conditions and the columns of the tables."""
    config, environment = results["config"], results["environment"]
    cache = {
        "f32": "keys and values in F32, no flash attention, so that only the weights differ",
        "f16": "keys and values in F16, flash attention if it helps, as by default in the runtime",
    }
    yield (
        f"n = {results['n']:,} questions of {config['split']} (seed {config['seed']}), threshold "
        f"{config['threshold']:g}; base `{config['base']['name']}`; {cache[config['cache_type']]}."
    )
    yield (
        "Activations, cognitive tokens: cosine with PyTorch's, mean over questions and layers (or tokens), and the "
        "minimum in parentheses. Decision: to answer or to decline. Declines, answers: number of questions that this "
        "type declines but PyTorch answers, and the reverse. Doubt: mean absolute difference."
    )
    yield (
        "Refusal precision: proportion of the declined questions that the base of this type gets wrong. Over-refusal: "
        "proportion of its right answers that are declined. Square brackets: 95 % intervals."
    )
    threads = "threads by default" if config["threads"] is None else f"threads: {config['threads']}"
    yield (
        "Speed: tokens per second, median over questions, with quartiles in parentheses. Prompt: until the first token "
        "can be chosen (both passes with the Doubter). Answer: from its second token on. Only an indication, because "
        f"the types were measured one after another ({threads}, CPUs: {environment['cpu_count']})."
    )
    yield (
        "Types: read from each file's tensors. A file type is a recipe: llama.cpp uses a larger type for the most "
        "important matrices, and no K type for matrices whose rows are not a multiple of 256."
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
