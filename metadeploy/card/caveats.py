"""Warnings for the reader of a card, derived from the results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from metadeploy._format import count, number, p_value, percent
from metadeploy.card.facts import Evaluation
from metadeploy.card.markdown import escape

__all__ = ["caveats"]

#: Fewer questions than this leave intervals too wide to choose between two Doubters.
_FEW: Final = 1000
_FEW_ANSWERED: Final = 100
_SIGNIFICANT: Final = 0.05
#: A calibration error from which on doubt should not be read as a probability.
_MISCALIBRATED: Final = 0.05
#: An AUROC within categories that is so much lower means that the rest is the kind of question.
_KIND_GAP: Final = 0.05


class _Caveat(NamedTuple):
    """A weakness of what one evaluation found.

    Attributes:
        matter: what it is about; other figures make it no other weakness.
        text: finished Markdown, a sentence or two.
    """

    matter: str
    text: str


def caveats(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    """Say what is weak about what was found, each weakness once; finished Markdown, a sentence or two each.

    Args:
        evaluations: the most telling one first; figures are of the first that shows the weakness, and those that show
            it are named unless all do.
    """
    found: dict[str, list[tuple[Evaluation, str]]] = {}
    for evaluation in evaluations:
        for matter, text in _of_one(evaluation):
            found.setdefault(matter, []).append((evaluation, text))
    for shown in found.values():
        where = "; ".join(escape(evaluation.title) for evaluation, _ in shown)
        text = shown[0][1]
        yield text if len(shown) == len(evaluations) else f"{where}: {text}"


def _of_one(evaluation: Evaluation) -> Iterator[_Caveat]:
    results = evaluation.results
    metrics = {name: row["value"] for name, row in results["metrics"].items()}
    yield from _of_the_questions(evaluation, metrics)
    yield from _of_the_refusals(results, metrics)
    yield from _of_the_ranking(results, metrics)


def _of_the_questions(evaluation: Evaluation, metrics: Mapping[str, float | None]) -> Iterator[_Caveat]:
    results = evaluation.results
    if evaluation.is_own and evaluation.split != "test":
        yield _Caveat(
            f"the {evaluation.split} split",
            f"These are questions of the {evaluation.split} split, which training used. Expect less on others.",
        )
    if results["n"] < _FEW:
        yield _Caveat(
            "few questions", f"{count(results['n'])} questions are few: look at the intervals, not at the values."
        )
    n_answered = results["metrics"]["selective_accuracy"]["n"]
    if 0 < n_answered < _FEW_ANSWERED:
        yield _Caveat(
            "few answers",
            f"Only {count(n_answered)} questions are answered; selective accuracy rests on these alone.",
        )
    if results["threshold"]["chosen"] == "by hand":
        yield _Caveat(
            "a threshold by hand",
            "The threshold was set by hand. If it was chosen on these questions, the figures at the threshold are too "
            "good.",
        )
    accuracy = metrics["base_accuracy"]
    if accuracy is not None and accuracy < 0.5:
        yield _Caveat(
            "a weak base",
            f"The base gets only {percent(accuracy)} right, so declining everything would catch more errors than it "
            "loses right answers. The exact test against the base counts a declined error as a success, so it is easy "
            "to pass. Coverage and over-refusal show whether the Doubter is useful.",
        )


def _of_the_refusals(results: Mapping[str, Any], metrics: Mapping[str, float | None]) -> Iterator[_Caveat]:
    coverage, lost = metrics["coverage"], metrics["over_refusal_rate"]
    if coverage == 0:
        yield _Caveat("declines all", "At this threshold it declines every question, which helps nobody.")
    elif coverage == 1:
        yield _Caveat("declines none", "At this threshold it declines nothing: the base alone does the same.")
    if lost is not None and lost > 0 and coverage:
        yield _Caveat(
            "over-refusal",
            f"It declines {percent(lost)} of the base's right answers (over-refusal).",
        )
    refusals = results["refusals"]
    changed = refusals["declined"] - refusals["word_for_word"]
    if changed:
        yield _Caveat(
            "refusals in other words",
            f"Of {count(refusals['declined'])} refusals, {count(refusals['word_for_word'])} are word for word as "
            "trained. Programs should use `abstained`, not the text.",
        )


def _of_the_ranking(results: Mapping[str, Any], metrics: Mapping[str, float | None]) -> Iterator[_Caveat]:
    auroc, within, error = metrics["auroc"], metrics["macro_auroc"], metrics["ece"]
    if auroc is not None and within is not None and within < auroc - _KIND_GAP:
        yield _Caveat(
            "knows the kind",
            f"Much of the AUROC of {number(auroc)} comes from knowing the kinds of question that the base gets wrong: "
            f"within a kind it is {number(within)} on average. Expect less on kinds that it was not trained on.",
        )
    not_beaten = {row["name"]: row["doubter"]["p_value"] for row in results["baselines"] if not _is_ahead(row)}
    if not_beaten:
        named = "; ".join(f"{escape(name)} (p {_sign(found)})" for name, found in not_beaten.items())
        yield _Caveat(
            f"not ahead of {sorted(not_beaten)}", f"At the same coverage it is not significantly ahead of: {named}."
        )
    if not results["baselines"]:
        yield _Caveat(
            "no baselines",
            "It was not compared with baselines. A threshold on the base's own probabilities may be as good.",
        )
    if error is not None and error > _MISCALIBRATED:
        yield _Caveat(
            "miscalibrated",
            f"Doubt ranks questions, but it is not the probability of an error (calibration error {number(error)}). A "
            "doubt of 0.8 does not mean that four of five such answers are wrong.",
        )


def _is_ahead(row: Mapping[str, Any]) -> bool:
    ours, theirs = row["doubter"]["selective_accuracy"]["value"], row["selective_accuracy"]["value"]
    return ours is not None and theirs is not None and ours > theirs and row["doubter"]["p_value"] < _SIGNIFICANT


def _sign(found: float) -> str:
    shown = p_value(found)
    return shown if shown.startswith("<") else f"= {shown}"
