"""What a reader should be warned of, as far as the results themselves tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from metadeploy.card.facts import Evaluation
from metadeploy.card.markdown import count, escape, number, p_value, percent

__all__ = ["caveats"]

#: Fewer questions than this leave intervals too wide to choose between two Doubters.
_FEW: Final = 1000
_FEW_ANSWERED: Final = 100
_SIGNIFICANT: Final = 0.05
#: A calibration error from which on doubt should not be read as a probability.
_MISCALIBRATED: Final = 0.05
#: An AUROC within categories that is so much lower means that the rest is the kind of question.
_KIND_GAP: Final = 0.05


def caveats(evaluation: Evaluation) -> Iterator[str]:
    """Say what is weak about what one evaluation found; finished Markdown, a sentence or two each."""
    results = evaluation.results
    metrics = {name: row["value"] for name, row in results["metrics"].items()}
    yield from _of_the_questions(evaluation, metrics)
    yield from _of_the_refusals(results, metrics)
    yield from _of_the_ranking(results, metrics)


def _of_the_questions(evaluation: Evaluation, metrics: Mapping[str, float | None]) -> Iterator[str]:
    results = evaluation.results
    if evaluation.is_own and evaluation.split != "test":
        yield f"These are questions of the {evaluation.split} split, which training used: expect less on others."
    if results["n"] < _FEW:
        yield f"{count(results['n'])} questions are few: look at the intervals, not at the values."
    n_answered = results["metrics"]["selective_accuracy"]["n"]
    if 0 < n_answered < _FEW_ANSWERED:
        yield f"Only {count(n_answered)} questions are answered; selective accuracy rests on these alone."
    if results["threshold"]["chosen"] == "by hand":
        yield (
            "The threshold was set by hand. If these questions were looked at for that, the figures at the threshold "
            "are too good."
        )
    accuracy = metrics["base_accuracy"]
    if accuracy is not None and accuracy < 0.5:
        yield (
            f"The base has only {percent(accuracy)} right, so that declining everything would catch more errors than "
            "it loses right answers. The exact test against the base counts a declined error as a success and is "
            "easily passed then; coverage and over-refusal tell whether the Doubter is of use."
        )


def _of_the_refusals(results: Mapping[str, Any], metrics: Mapping[str, float | None]) -> Iterator[str]:
    coverage, lost = metrics["coverage"], metrics["over_refusal_rate"]
    if coverage == 0:
        yield "At this threshold it declines every question, which helps nobody."
    elif coverage == 1:
        yield "At this threshold it declines nothing: the base alone does the same."
    if lost is not None and lost > 0 and coverage:
        yield f"It declines {percent(lost)} of what the base would have had right: over-refusal is the price."
    refusals = results["refusals"]
    changed = refusals["declined"] - refusals["word_for_word"]
    if changed:
        yield (
            f"Of {count(refusals['declined'])} refusals {count(refusals['word_for_word'])} are word for word as "
            "trained. Let a program go by `abstained`, not by the text."
        )


def _of_the_ranking(results: Mapping[str, Any], metrics: Mapping[str, float | None]) -> Iterator[str]:
    auroc, within, error = metrics["auroc"], metrics["macro_auroc"], metrics["ece"]
    if auroc is not None and within is not None and within < auroc - _KIND_GAP:
        yield (
            f"Much of the AUROC of {number(auroc)} is knowing which kinds of question the base is bad at: within a "
            f"kind it is {number(within)} on average. On kinds that it was not trained with, expect less."
        )
    not_beaten = [
        f"{escape(row['name'])} (p {_sign(row['doubter']['p_value'])})"
        for row in results["baselines"]
        if not _is_ahead(row)
    ]
    if not_beaten:
        yield f"At the same coverage it is not significantly ahead of: {'; '.join(not_beaten)}."
    if not results["baselines"]:
        yield "It was not compared with baselines: a threshold on the base's own probabilities may do as well."
    if error is not None and error > _MISCALIBRATED:
        yield (
            f"Doubt orders questions and is not the probability of an error (calibration error {number(error)}): a "
            "doubt of 0.8 does not mean that four of five such answers are wrong."
        )


def _is_ahead(row: Mapping[str, Any]) -> bool:
    ours, theirs = row["doubter"]["selective_accuracy"]["value"], row["selective_accuracy"]["value"]
    return ours is not None and theirs is not None and ours > theirs and row["doubter"]["p_value"] < _SIGNIFICANT


def _sign(found: float) -> str:
    shown = p_value(found)
    return shown if shown.startswith("<") else f"= {shown}"
