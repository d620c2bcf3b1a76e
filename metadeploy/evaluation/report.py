"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from metadeploy._format import count, interval, number, p_value, percent, value

__all__ = ["mean_tables", "tables"]

#: What is shown first: metric, what it is called, and whether it is a share.
_METRICS: Final = (
    ("base_accuracy", "base accuracy: right of all", True),
    ("coverage", "coverage: the Doubter answers", True),
    ("selective_accuracy", "selective accuracy: right of the answered", True),
    ("over_refusal_rate", "over-refusal: right answers declined", True),
    ("smart_refusal_rate", "errors caught: wrong answers declined", True),
    ("kept_rate", "kept right: still right where answered", True),
    ("same_words_rate", "same words: right answers in the base's own text", True),
    ("auroc", "AUROC of doubt for the base's errors", False),
    ("macro_auroc", "the same within categories, mean", False),
    ("aurc", "AURC (lower is better)", False),
)

_RANKINGS: Final = ("auroc", "macro_auroc", "aurc")


def tables(results: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What one evaluation found: the Doubter, then what it is compared with."""
    yield _metrics(results)
    yield _least_doubted(results["least_doubted"], "value")
    if results["baselines"]:
        yield _baselines(results["baselines"])
    if results["gains"]:
        yield _gains(results["gains"])
    yield _remarks(results)


def mean_tables(combined: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What several runs have in common."""
    table = _plain_table(f"mean of {len(combined['runs'])} runs", "mean", "95 % interval over runs")
    for name, title, is_share in _METRICS:
        row = combined["metrics"][name]
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
    asked = f"{results['n']:,} questions about {results['bootstrap']['entities']:,} entities"
    table = _plain_table(f"{asked}, threshold {threshold['value']:.3g}", "value", "95 % interval", "n")
    for name, title, is_share in _METRICS:
        row = results["metrics"][name]
        table.add_row(title, value(row, is_share=is_share), interval(row, is_share=is_share), count(row["n"]))
    return table


def _least_doubted(rows: Sequence[Mapping[str, Any]], key: str) -> Table:
    table = _plain_table("the least doubted", *(percent(row["coverage"], 0) for row in rows))
    table.add_row("right of the answered", *(percent(row[key]) for row in rows))
    return table


def _baselines(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table(
        "baseline, at the same coverage", "AUROC", "within", "AURC", "coverage", "right", "Doubter right", "p"
    )
    for row in rows:
        ranking = [number(row[key]["value"] if key in row else None) for key in ("auroc", "macro_auroc", "aurc")]
        covered = percent(row["coverage"]["value"]) if "coverage" in row else "same"
        table.add_row(escape(row["name"]), *ranking, covered, *_against(row))
    return table


def _gains(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table(f"gain ({rows[0]['coverage']['n']:,} questions)", "AUROC", "coverage", "right", "by threshold", "p")
    for row in rows:
        coverage = percent(row["coverage"]["value"])
        table.add_row(f"{row['gain']:g}", number(row["auroc"]), coverage, *_against(row))
    return table


def _against(row: Mapping[str, Any]) -> tuple[str, str, str]:
    doubter = row["doubter"]
    ours, theirs = doubter["selective_accuracy"]["value"], row["selective_accuracy"]["value"]
    return percent(theirs), percent(ours), p_value(doubter["p_value"])


def _remarks(results: Mapping[str, Any]) -> str:
    refusals, mcnemar = results["refusals"], results["mcnemar"]
    p = p_value(mcnemar["p_value"])
    lines = [
        f"right or rightly declined: the Doubter alone {mcnemar['only_doubter']:,}, the base alone "
        f"{mcnemar['only_base']:,} (McNemar p {p if p.startswith('<') else f'= {p}'})",
        f"refusals word for word: {refusals['word_for_word']:,} of {refusals['declined']:,}",
    ]
    lines += [
        escape(f"{name}: left out, for {note['left_out']}")
        for name, note in results["trained_baselines"].items()
        if "left_out" in note
    ]
    return "\n".join(lines)


def _table(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first)
    for title in others:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _plain_table(first: str, *others: str) -> Table:
    table = _table(first, *others)
    table.columns[0].no_wrap = True
    return table
