"""The tables of a card. All figures are from the results files, unchanged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from metadeploy._format import METRICS, count, interval, number, p_value, percent, value
from metadeploy.card.facts import ListedFile
from metadeploy.card.markdown import code, escape, table

__all__ = [
    "HEADLINES",
    "baselines_table",
    "categories_table",
    "entities",
    "files_table",
    "ladder_table",
    "least_doubted_table",
    "metrics_table",
    "repeated_baselines_table",
    "repeated_table",
]

#: Keys of the metrics in the front matter of a card.
HEADLINES: Final = frozenset(
    {
        *("base_accuracy", "coverage", "selective_accuracy", "over_refusal_rate", "smart_refusal_rate"),
        *("refusal_precision", "auroc", "macro_auroc"),
    }
)

#: Metrics that older results lack.
_LATER: Final = frozenset({"same_words_rate"})


def metrics_table(results: Mapping[str, Any]) -> str:
    """Format the metrics of the Doubter: value, 95 % interval and number of questions."""
    return table(
        ("metric", "value", "95 % interval", "n"),
        (
            (title, value(row, is_share=is_share), interval(row, is_share=is_share), count(row["n"]))
            for title, is_share, row in _rows(results["metrics"])
        ),
    )


def entities(results: Mapping[str, Any]) -> str:
    """Format the number of entities of an evaluation; an empty text for older results without this number."""
    n_entities = results["bootstrap"].get("entities")
    return "" if n_entities is None else f" about {count(n_entities)} entities"


def least_doubted_table(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    """Format selective accuracy at several coverages, a column each. ``key`` is the key of the figure in a row."""
    return table(
        ("answered: the least doubted", *(percent(row["coverage"], 0) for row in rows)),
        [("right of the answered", *(percent(row[key]) for row in rows))],
    )


def _rows(metrics: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, bool, Mapping[str, Any]]]:
    """Yield each metric's title, whether it is a proportion, and its figures."""
    for key, title, is_share in METRICS:
        if key in metrics or key not in _LATER:
            yield title, is_share, metrics[key]


def baselines_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the baselines, each next to the Doubter at the same coverage."""
    header = ("baseline", "AUROC", "within categories", "coverage", "right", "Doubter right", "p")
    return table(
        header,
        (
            (
                escape(row["name"]),
                *(number(row[key]["value"]) if key in row else "–" for key in ("auroc", "macro_auroc")),
                percent(row["coverage"]["value"]) if "coverage" in row else "same",
                percent(row["selective_accuracy"]["value"]),
                percent(row["doubter"]["selective_accuracy"]["value"]),
                p_value(row["doubter"]["p_value"]),
            )
            for row in rows
        ),
    )


def categories_table(categories: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the kinds of question, sorted by base accuracy, the highest first."""
    ordered = sorted(categories.items(), key=lambda item: (-item[1]["base_accuracy"], item[0]))
    return table(
        ("kind of question", "n", "base accuracy", "coverage", "selective accuracy", "AUROC"),
        (
            (
                escape(name),
                count(row["n"]),
                *(percent(row[key]) for key in ("base_accuracy", "coverage", "selective_accuracy")),
                number(row["auroc"]),
            )
            for name, row in ordered
        ),
    )


def repeated_table(results: Mapping[str, Any]) -> str:
    """Format means over trainings with different seeds."""
    return table(
        ("metric", "mean", "95 % interval over the runs", "runs"),
        (
            (title, value(row, "mean", is_share=is_share), interval(row, is_share=is_share), count(row["n"]))
            for title, is_share, row in _rows(results["metrics"])
        ),
    )


def repeated_baselines_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Format means of the baselines over the same trainings."""
    return table(
        ("baseline, at the same coverage", "AUROC", "within categories", "right", "Doubter right", "p of each run"),
        (
            (
                escape(name),
                *(number(row[key]["mean"]) if key in row else "–" for key in ("auroc", "macro_auroc")),
                *(percent(row[key]["mean"]) for key in ("selective_accuracy", "doubter_selective_accuracy")),
                ", ".join(map(p_value, row["p_values"])),
            )
            for name, row in rows.items()
        ),
    )


def ladder_table(results: Mapping[str, Any]) -> str:
    """Format the types of base and sidecar: their agreement with PyTorch in F32, and their figures."""
    header = (
        *("base + sidecar", "bytes of the base", "decisions agree", "95 % interval"),
        *(key.replace("_", " ") for key in _RUNG_METRICS),
    )
    rows = [(escape(results["reference"]["name"]), "–", "–", "–", *_rung_cells(results["reference"]))]
    for rung in results["rungs"]:
        agree = rung["decisions"]["agree"]
        cells = count(rung["files"]["base"]["size"]), percent(agree["value"]), interval(agree, is_share=True)
        rows.append((escape(f"{rung['base']} + {rung['sidecar']}"), *cells, *_rung_cells(rung)))
    return table(header, rows)


def _rung_cells(row: Mapping[str, Any]) -> list[str]:
    return [percent(row["metrics"][key]["value"]) for key in _RUNG_METRICS]


_RUNG_METRICS: Final = ("coverage", "selective_accuracy", "refusal_precision")


def files_table(files: Sequence[ListedFile]) -> str:
    """Format the files: name, description, size and the beginning of the hash."""
    return table(
        ("file", "what", "bytes", "SHA-256"),
        ((code(file.name), file.what, count(file.size), code(f"{file.sha256[:12]}…")) for file in files),
        n_text=2,
    )
