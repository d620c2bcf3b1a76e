"""Every row of figures in docs/evaluation.md matches the results files beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import pytest
import torch

DOCS: Final = Path(__file__).parents[3] / "docs"
PAGE: Final = (DOCS / "evaluation.md").read_text(encoding="utf-8")

#: A metric's label in the tables, its key in the results, and whether it is a proportion.
METRICS: Final = (
    ("base_accuracy", "base accuracy", True),
    ("coverage", "coverage", True),
    ("selective_accuracy", "**selective accuracy**", True),
    ("over_refusal_rate", "over-refusal", True),
    ("smart_refusal_rate", "errors caught", True),
    ("refusal_precision", "refusal precision", True),
    ("kept_rate", "kept right", True),
    ("same_words_rate", "same words", True),
    ("auroc", "**AUROC**", False),
    ("macro_auroc", "macro AUROC within categories", False),
    ("pooled_auroc", "pooled AUROC within categories", False),
    ("aurc", "AURC", False),
    ("prr", "PRR", False),
    ("ece", "ECE", False),
)


def results(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DOCS / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return content


def number(value: float, *, is_share: bool) -> str:
    return f"{100 * value:.1f} %" if is_share else f"{value:.3f}"


def span(row: Mapping[str, float], *, is_share: bool) -> str:
    low, high = (f"{100 * end:.1f}" if is_share else f"{end:.3f}" for end in (row["low"], row["high"]))
    return f"{low} to {high}{' %' if is_share else ''}"


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def plain(title: str) -> str:
    return title.strip("*")


def main_table() -> Iterator[str]:
    """Return the rows for the mean of three trainings and for the first of them."""
    means, first = results("seeds")["metrics"], results("seed-0")["metrics"]
    for key, title, is_share in METRICS:
        mean = number(means[key]["mean"], is_share=is_share)
        cell = f"**{mean}**" if title != plain(title) else mean
        cells = (span(means[key], is_share=is_share), number(first[key]["value"], is_share=is_share))
        yield line(title, cell, *cells, span(first[key], is_share=is_share), f"{first[key]['n']:,}")


def least_doubted() -> Iterator[str]:
    rows = results("seeds")["least_doubted"]
    yield line("least doubted", *(f"{row['coverage']:.0%}".replace("%", " %") for row in rows))
    yield line("right, mean of three", *(f"{100 * row['mean']:.0f} %" for row in rows))


def two_of(one: str, other: str, keys: Sequence[str]) -> Iterator[str]:
    """Return the rows for two evaluations of the same questions side by side, with intervals."""
    left, right = results(one)["metrics"], results(other)["metrics"]
    for key, title, is_share in METRICS:
        if key in keys:
            cells = [
                f"{number(metric[key]['value'], is_share=is_share)} ({span(metric[key], is_share=is_share)})"
                for metric in (left, right)
            ]
            yield line(plain(title), *cells)


def every_position() -> Iterator[str]:
    keys = [key for key, _, _ in METRICS if key not in ("base_accuracy", "refusal_precision", "prr", "ece")]
    yield from two_of("seed-0", "every-position", keys)


def runtime() -> Iterator[str]:
    """Return the rows for the compiled runtime."""
    metrics = results("runtime")["metrics"]
    for key, title, is_share in METRICS:
        if key in ("coverage", "selective_accuracy", "over_refusal_rate", "kept_rate", "auroc", "macro_auroc"):
            cells = (number(metrics[key]["value"], is_share=is_share), span(metrics[key], is_share=is_share))
            yield line(plain(title), *cells)


def unseen_kinds() -> Iterator[str]:
    metrics = results("unseen-kinds")["metrics"]
    for key, title, is_share in METRICS:
        if key in ("base_accuracy", "coverage", "selective_accuracy", "over_refusal_rate", "auroc", "macro_auroc"):
            cells = (number(metrics[key]["value"], is_share=is_share), span(metrics[key], is_share=is_share))
            yield line(plain(title), *cells, f"{metrics[key]['n']:,}")


TABLES: Final = {table.__name__: table for table in (main_table, least_doubted, every_position, runtime, unseen_kinds)}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_figures_of_its_results(name: str) -> None:
    for row in TABLES[name]():
        assert row in PAGE


def test_results_are_of_the_shipped_doubter() -> None:
    """The results name the hash of the measured file, so that these figures cannot outlive a new training.

    The file was saved again later, for the framework, with the same tensors.
    """
    path = Path(str(files("metadeploy.demo") / "data" / "smollm2_doubter" / "doubter_checkpoint.pt"))
    shipped = results("shipped")
    assert results("seed-0")["config"]["wrapper"]["sha256"] == shipped["measured"]["sha256"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == shipped["shipped"]["sha256"]
    assert tensors_sha256(path) == shipped["tensors_sha256"]


def tensors_sha256(checkpoint: Path) -> str:
    """Return a hash of only the tensors: their names in order, types, shapes and bytes."""
    content = torch.load(checkpoint, weights_only=True)
    layers = sorted(content["ca_state"], key=int)
    parts = [("encoder", content["encoder_state"]), *((f"layer {n}", content["ca_state"][n]) for n in layers)]
    digest = hashlib.sha256()
    for part, tensors in parts:
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{part} {name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def test_the_second_doubter() -> None:
    """The page has the counts of `metadeploy demo --base qwen2.5-coder-0.5b --all`."""
    measured = results("demo-qwen2.5-coder-0.5b")
    titles = {
        "base_accuracy": "base accuracy",
        "coverage": "coverage",
        "selective_accuracy": "**selective accuracy**",
        "right_declined": "over-refusal",
        "errors_declined": "errors caught",
    }
    for name, title in titles.items():
        score = measured["scores"][name]
        low, high = (f"{100 * end:.0f}" for end in score["interval"])
        bold = "**" if title.startswith("*") else ""
        value = f"{bold}{100 * score['value']:.0f} %{bold}"
        assert line(title, f"{score['hits']} of {score['total']}", value, f"{low} to {high} %") in PAGE
    assert f"AUROC of doubt is {measured['auroc']:.3f}" in PAGE


def test_the_readme_has_the_counts_of_the_demo() -> None:
    """The README has the counts of `metadeploy demo --all`."""
    page = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    scores = results("demo-smollm2-135m")["scores"]

    def share(name: str) -> str:
        return f"{100 * scores[name]['value']:.0f} %"

    def of(name: str) -> str:
        return f"{scores[name]['hits']} of {scores[name]['total']}"

    low, high = (f"{100 * end:.0f}" for end in scores["selective_accuracy"]["interval"])
    base, coverage, accuracy = of("base_accuracy"), of("coverage"), of("selective_accuracy")
    errors, right = scores["errors_declined"], scores["right_declined"]
    for row in (
        line("answers", "300 of 300", f"{coverage} (coverage {share('coverage')})"),
        line(
            "right, of the answered",
            f"{base} ({share('base_accuracy')})",
            f"{accuracy} ({share('selective_accuracy')}, 95 % interval {low} to {high} %)",
        ),
        f"| of the base's {errors['total']} errors | | {errors['hits']} declined ({share('errors_declined')}) |",
        f"| of the base's {right['total']} right answers | | {right['hits']} declined ({share('right_declined')}) |",
    ):
        assert row in page
