"""Formats results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from metadeploy._format import METRICS, count, interval, number, p_value, percent, value

__all__ = ["mean_tables", "tables"]

#: Metrics of the first table.
_METRICS: Final = tuple(metric for metric in METRICS if metric.key not in ("refusal_precision", "prr", "ece"))


def tables(results: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield the tables of one evaluation: first the Doubter, then the baselines."""
    yield _metrics(results)
    yield _least_doubted(results["least_doubted"], "value")
    if results["baselines"]:
        yield _baselines(results["baselines"])
    if results["gains"]:
        yield _gains(results["gains"])
    yield _remarks(results)


def mean_tables(combined: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield the tables of means over several runs."""
    table = _unwrapped_table(f"mean of {len(combined['runs'])} runs", "mean", "95 % interval over runs")
    for key, title, is_share in _METRICS:
        row = combined["metrics"][key]
        table.add_row(title, value(row, "mean", is_share=is_share), interval(row, is_share=is_share))
    yield table
    yield _least_doubted(combined["least_doubted"], "mean")
    if combined["baselines"]:
        rows = _table("baseline, at the same coverage", "AUROC", "within", "right", "Doubter right", "p of each run")
        for name, row in combined["baselines"].items():
            rows.add_row(
                escape(name),
                *(number(row[key]["mean"] if key in row else None) for key in ("auroc", "macro_auroc")),
                *(percent(row[key]["mean"]) for key in ("selective_accuracy", "doubter_selective_accuracy")),
                ", ".join(map(p_value, row["p_values"])),
            )
        yield rows


def _metrics(results: Mapping[str, Any]) -> Table:
    threshold = results["threshold"]
    questions = f"{results['n']:,} questions about {results['bootstrap']['entities']:,} entities"
    table = _unwrapped_table(f"{questions}, threshold {threshold['value']:.3g}", "value", "95 % interval", "n")
    for key, title, is_share in _METRICS:
        row = results["metrics"][key]
        table.add_row(title, value(row, is_share=is_share), interval(row, is_share=is_share), count(row["n"]))
    return table


def _least_doubted(rows: Sequence[Mapping[str, Any]], key: str) -> Table:
    table = _unwrapped_table("the least doubted", *(percent(row["coverage"], 0) for row in rows))
    table.add_row("right of the answered", *(percent(row[key]) for row in rows))
    return table


def _baselines(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table(
        "baseline, at the same coverage", "AUROC", "within", "AURC", "coverage", "right", "Doubter right", "p"
    )
    for row in rows:
        ranking = [number(row[key]["value"] if key in row else None) for key in ("auroc", "macro_auroc", "aurc")]
        coverage = percent(row["coverage"]["value"]) if "coverage" in row else "same"
        table.add_row(escape(row["name"]), *ranking, coverage, *_comparison(row))
    return table


def _gains(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table(f"gain ({rows[0]['coverage']['n']:,} questions)", "AUROC", "coverage", "right", "by threshold", "p")
    for row in rows:
        coverage = percent(row["coverage"]["value"])
        table.add_row(f"{row['gain']:g}", number(row["auroc"]), coverage, *_comparison(row))
    return table


def _comparison(row: Mapping[str, Any]) -> tuple[str, str, str]:
    doubter = row["doubter"]
    accuracies = row["selective_accuracy"]["value"], doubter["selective_accuracy"]["value"]
    return percent(accuracies[0]), percent(accuracies[1]), p_value(doubter["p_value"])


def _remarks(results: Mapping[str, Any]) -> str:
    refusals, mcnemar = results["refusals"], results["mcnemar"]
    p = p_value(mcnemar["p_value"])
    lines = [
        f"right or rightly declined: only the Doubter {mcnemar['only_doubter']:,}, only the base "
        f"{mcnemar['only_base']:,} (McNemar p {p if p.startswith('<') else f'= {p}'})",
        f"refusals word for word: {refusals['word_for_word']:,} of {refusals['declined']:,}",
    ]
    lines += [
        escape(f"{name}: left out, because {note['left_out']}")
        for name, note in results["trained_baselines"].items()
        if "left_out" in note
    ]
    return "\n".join(lines)


def _table(first: str, *numeric: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first)
    for title in numeric:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _unwrapped_table(first: str, *numeric: str) -> Table:
    table = _table(first, *numeric)
    table.columns[0].no_wrap = True
    return table
