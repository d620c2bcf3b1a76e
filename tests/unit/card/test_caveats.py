"""The warnings of a model card: those that each evaluation supports, and no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metadeploy.card.caveats import caveats
from metadeploy.card.facts import Evaluation
from support.card_run import RUNTIME, drawn_samples, results_of, section, write_run, written


def evaluation(change: Callable[[dict[str, Any]], object], **config: Any) -> Evaluation:
    """Return results of a Doubter without weaknesses, after a change."""
    row = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 2000}
    results: dict[str, Any] = {
        "config": {"engine": "torch", "quantization": None, "dtype": "bfloat16", "split": "test", **config},
        "n": 2000,
        "threshold": {"value": 0.5, "chosen": "as shipped"},
        "metrics": {
            **{name: dict(row) for name in ("base_accuracy", "coverage", "selective_accuracy", "auroc", "macro_auroc")},
            "over_refusal_rate": {**row, "value": 0.0},
            "ece": {**row, "value": 0.01},
        },
        "refusals": {"declined": 200, "word_for_word": 200},
        "baselines": [
            {
                "name": "probe",
                "selective_accuracy": {"value": 0.8},
                "doubter": {"selective_accuracy": {"value": 0.9}, "p_value": 0.01},
            }
        ],
    }
    change(results)
    return Evaluation(Path("results_x.json"), results, "facts", is_own=True)


def in_llama_cpp(change: Callable[[dict[str, Any]], object]) -> Evaluation:
    return evaluation(change, engine="runtime", base={"name": "tiny-Q4.gguf"})


def nothing(_results: dict[str, Any]) -> None:
    """No change."""


def test_no_caveats_for_good_results() -> None:
    assert list(caveats([evaluation(nothing), in_llama_cpp(nothing)])) == []


def test_no_evaluation_is_passed_over() -> None:
    """A weakness in one evaluation is a caveat with its name. A weakness in all of them is mentioned once."""

    def matched(results: dict[str, Any]) -> None:
        results["baselines"][0]["doubter"]["p_value"] = 0.2

    def costs(lost: float) -> Callable[[dict[str, Any]], None]:
        return lambda results: results["metrics"]["over_refusal_rate"].update(value=lost)

    def both(results: dict[str, Any]) -> None:
        matched(results)
        costs(0.36)(results)

    behind = "At the same coverage it is not significantly ahead of: probe (p = 0.200)."
    price = "It declines 35.0% of the base's right answers (over-refusal)."
    in_torch, in_runtime = "facts, test split (PyTorch, bfloat16)", "facts, test split (llama.cpp, tiny-Q4.gguf)"
    assert list(caveats([evaluation(nothing), in_llama_cpp(matched)])) == [f"{in_runtime}: {behind}"]
    assert list(caveats([evaluation(matched), in_llama_cpp(nothing)])) == [f"{in_torch}: {behind}"]
    assert list(caveats([evaluation(matched), in_llama_cpp(matched)])) == [behind]
    assert list(caveats([evaluation(costs(0.35)), in_llama_cpp(both)])) == [price, f"{in_runtime}: {behind}"]

    def two(results: dict[str, Any]) -> None:
        matched(results)
        results["baselines"].append({**results["baselines"][0], "name": "told"})

    assert list(caveats([evaluation(matched), in_llama_cpp(two)])) == [
        f"{in_torch}: {behind}",
        f"{in_runtime}: At the same coverage it is not significantly ahead of: probe (p = 0.200); told (p = 0.200).",
    ]


def test_a_caveat_of_the_runtime_only(tmp_path: Path) -> None:
    ahead, behind = results_of(drawn_samples(60)), results_of(drawn_samples(60), **RUNTIME)
    for results, p_value in ((ahead, 0.01), (behind, 0.6)):
        for row in results["baselines"]:
            row["doubter"] |= {"selective_accuracy": {"value": 0.9}, "p_value": p_value}
            row["selective_accuracy"] |= {"value": 0.1}
    text = section(written(write_run(tmp_path / "run", ahead, behind)), "What it cannot do")
    (sentence,) = (line for line in text.splitlines() if "not significantly ahead" in line)
    assert sentence.startswith("* facts, test split (llama.cpp, tiny-Q4\\_K\\_M.gguf): At the same coverage it is not")
    assert text.count("60 questions are few") == 1
    assert "The figures in each point are from the first evaluation above" in text


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("config.split", "val", "which training used"),
        ("n", 300, "300 questions are few"),
        ("metrics.selective_accuracy.n", 42, "Only 42 questions are answered"),
        ("threshold.chosen", "by hand", "set by hand"),
        ("metrics.base_accuracy.value", 0.28, "The base gets only 28.0% right"),
        ("metrics.coverage.value", 0, "declines every question"),
        ("metrics.coverage.value", 1, "declines nothing"),
        ("metrics.over_refusal_rate.value", 0.53, "declines 53.0% of the base's right answers"),
        ("refusals.word_for_word", 199, "Of 200 refusals, 199 are word for word"),
        ("metrics.macro_auroc.value", 0.65, "Much of the AUROC of 0.900 comes from knowing the kinds"),
        ("baselines.0.doubter.p_value", 0.2, "not significantly ahead of: probe (p = 0.200)"),
        ("baselines.0.selective_accuracy.value", 0.95, "not significantly ahead of: probe (p = 0.010)"),
        ("baselines", [], "not compared with baselines"),
        ("metrics.ece.value", 0.2, "(calibration error 0.200)"),
    ],
)
def test_caveats(path: str, value: object, words: str) -> None:
    def change(results: dict[str, Any]) -> None:
        *steps, last = path.split(".")
        parent: Any = results
        for step in steps:
            parent = parent[int(step) if step.isdigit() else step]
        parent[last] = value

    (caveat,) = caveats([evaluation(change)])  # and no other caveat
    assert words in caveat
