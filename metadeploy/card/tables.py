"""The tables of a card, each figure taken from a results file as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from metadeploy._format import count, interval, number, p_value, percent, value
from metadeploy.card.facts import ListedFile
from metadeploy.card.markdown import code, escape, table

__all__ = [
    "METRICS",
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

#: Metrics of a card: key, name, whether it is a share, whether it goes into the front matter.
METRICS: Final = (
    ("base_accuracy", "base accuracy: right, of all", True, True),
    ("coverage", "coverage: answered, of all", True, True),
    ("selective_accuracy", "selective accuracy: right, of the answered", True, True),
    ("over_refusal_rate", "over-refusal: declined, of what the base has right", True, True),
    ("smart_refusal_rate", "errors caught: declined, of what the base has wrong", True, True),
    ("refusal_precision", "refusal precision: the base is wrong, of the declined", True, True),
    ("kept_rate", "kept right: still right, of the answered that the base has right", True, False),
    ("same_words_rate", "same words: the base's own text, of the answered that the base has right", True, False),
    ("auroc", "AUROC of doubt for the base's errors", False, True),
    ("macro_auroc", "AUROC within categories, mean", False, True),
    ("aurc", "AURC, lower is better", False, False),
    ("prr", "prediction rejection ratio: 0 random, 1 perfect", False, False),
    ("ece", "calibration error of 1 − doubt, lower is better", False, False),
)

#: Metrics that older results lack.
_LATER: Final = frozenset({"same_words_rate"})


def metrics_table(results: Mapping[str, Any]) -> str:
    """The Doubter: value, 95 % interval, and the number of questions behind each."""
    return table(
        ("metric", "value", "95 % interval", "n"),
        (
            (title, value(row, is_share=is_share), interval(row, is_share=is_share), count(row["n"]))
            for title, is_share, row in _rows(results["metrics"])
        ),
    )


def entities(results: Mapping[str, Any]) -> str:
    """What the questions of an evaluation are about; nothing in results that do not say so."""
    found = results["bootstrap"].get("entities")
    return "" if found is None else f" about {count(found)} entities"


def least_doubted_table(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    """Selective accuracy at some coverages, a column each; ``key`` is that of the figure."""
    return table(
        ("answered: the least doubted", *(percent(row["coverage"], 0) for row in rows)),
        [("right of the answered", *(percent(row[key]) for row in rows))],
    )


def _rows(metrics: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, bool, Mapping[str, Any]]]:
    """Of each metric its name, whether it is a share, and its figures."""
    for key, title, is_share, _ in METRICS:
        if key in metrics or key not in _LATER:
            yield title, is_share, metrics[key]


def baselines_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """What else one might use, each beside the Doubter at the same coverage."""
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
    """The kinds of question, those first that the base is best at."""
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
    """Means over trainings with other seeds."""
    return table(
        ("metric", "mean", "95 % interval over the runs", "runs"),
        (
            (title, value(row, "mean", is_share=is_share), interval(row, is_share=is_share), count(row["n"]))
            for title, is_share, row in _rows(results["metrics"])
        ),
    )


def repeated_baselines_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Means of the baselines over the same trainings."""
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
    """Types of base and sidecar: how near each comes to PyTorch in F32, and what is left of the figures."""
    header = ("base + sidecar", "bytes of the base", "decisions agree", "95 % interval", *(title for title, _ in _RUNG))
    rows = [(escape(results["reference"]["name"]), "–", "–", "–", *_rung(results["reference"]))]
    for rung in results["rungs"]:
        agree = rung["decisions"]["agree"]
        sizes = count(rung["files"]["base"]["size"]), percent(agree["value"]), interval(agree, is_share=True)
        rows.append((escape(f"{rung['base']} + {rung['sidecar']}"), *sizes, *_rung(rung)))
    return table(header, rows)


def _rung(row: Mapping[str, Any]) -> list[str]:
    return [percent(row["metrics"][key]["value"]) for _, key in _RUNG]


_RUNG: Final = (
    ("coverage", "coverage"),
    ("selective accuracy", "selective_accuracy"),
    ("refusal precision", "refusal_precision"),
)


def files_table(files: Sequence[ListedFile]) -> str:
    """Name, content, size and the beginning of the hash."""
    return table(
        ("file", "what", "bytes", "SHA-256"),
        ((code(file.name), file.what, count(file.size), code(f"{file.sha256[:12]}…")) for file in files),
        n_text=2,
    )
