"""Warnings for the reader of a card, derived from the results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from metadeploy._format import count, number, p_value, percent
from metadeploy.card.facts import Evaluation
from metadeploy.card.markdown import escape

__all__ = ["caveats"]

#: With fewer questions, intervals are too wide to choose between two Doubters.
_MIN_QUESTIONS: Final = 1000
_MIN_ANSWERED: Final = 100
_SIGNIFICANCE: Final = 0.05
#: Above this calibration error, doubt should not be read as a probability.
_MAX_CALIBRATION_ERROR: Final = 0.05
#: If the AUROC within categories is lower by more than this, much of the AUROC comes from the kinds of question.
_MAX_KIND_GAP: Final = 0.05


class _Caveat(NamedTuple):
    """A weakness in the results of one evaluation.

    Attributes:
        kind: identifies the weakness, so that several evaluations with the same weakness give one caveat.
        text: finished Markdown, a sentence or two.
    """

    kind: str
    text: str


def caveats(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    """Yield each weakness of the results once, as finished Markdown of a sentence or two.

    Args:
        evaluations: the most important one first. The figures in a caveat are from the first evaluation that has the
            weakness. If only some evaluations have it, the caveat names them.
    """
    by_kind: dict[str, list[tuple[Evaluation, str]]] = {}
    for evaluation in evaluations:
        for kind, text in _evaluation_caveats(evaluation):
            by_kind.setdefault(kind, []).append((evaluation, text))
    for affected in by_kind.values():
        titles = "; ".join(escape(evaluation.title) for evaluation, _ in affected)
        text = affected[0][1]
        yield text if len(affected) == len(evaluations) else f"{titles}: {text}"


def _evaluation_caveats(evaluation: Evaluation) -> Iterator[_Caveat]:
    results = evaluation.results
    metrics = {name: row["value"] for name, row in results["metrics"].items()}
    yield from _question_caveats(evaluation, metrics)
    yield from _refusal_caveats(results, metrics)
    yield from _ranking_caveats(results, metrics)


def _question_caveats(evaluation: Evaluation, metrics: Mapping[str, float | None]) -> Iterator[_Caveat]:
    results = evaluation.results
    if evaluation.is_own and evaluation.split != "test":
        yield _Caveat(
            f"the {evaluation.split} split",
            f"These are questions of the {evaluation.split} split, which training used. Expect less on others.",
        )
    if results["n"] < _MIN_QUESTIONS:
        yield _Caveat(
            "few questions", f"{count(results['n'])} questions are few: look at the intervals, not at the values."
        )
    n_answered = results["metrics"]["selective_accuracy"]["n"]
    if 0 < n_answered < _MIN_ANSWERED:
        yield _Caveat(
            "few answers",
            f"Only {count(n_answered)} questions are answered, so selective accuracy is not reliable.",
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


def _refusal_caveats(results: Mapping[str, Any], metrics: Mapping[str, float | None]) -> Iterator[_Caveat]:
    coverage, over_refusal = metrics["coverage"], metrics["over_refusal_rate"]
    if coverage == 0:
        yield _Caveat("declines all", "At this threshold it declines every question, which helps nobody.")
    elif coverage == 1:
        yield _Caveat("declines none", "At this threshold it declines nothing: the base alone does the same.")
    if over_refusal is not None and over_refusal > 0 and coverage:
        yield _Caveat(
            "over-refusal", f"It declines {percent(over_refusal)} of the base's right answers (over-refusal)."
        )
    refusals = results["refusals"]
    if refusals["declined"] != refusals["word_for_word"]:
        yield _Caveat(
            "refusals in other words",
            f"Of {count(refusals['declined'])} refusals, {count(refusals['word_for_word'])} are word for word as "
            "trained. Programs should use `abstained`, not the text.",
        )


def _ranking_caveats(results: Mapping[str, Any], metrics: Mapping[str, float | None]) -> Iterator[_Caveat]:
    auroc, within, error = metrics["auroc"], metrics["macro_auroc"], metrics["ece"]
    if auroc is not None and within is not None and within < auroc - _MAX_KIND_GAP:
        yield _Caveat(
            "knows the kind",
            f"Much of the AUROC of {number(auroc)} comes from knowing the kinds of question that the base gets wrong: "
            f"within a kind it is {number(within)} on average. Expect less on kinds that it was not trained on.",
        )
    not_beaten = {row["name"]: row["doubter"]["p_value"] for row in results["baselines"] if not _is_ahead(row)}
    if not_beaten:
        names = "; ".join(f"{escape(name)} (p {_with_sign(p)})" for name, p in not_beaten.items())
        yield _Caveat(
            f"not ahead of {sorted(not_beaten)}", f"At the same coverage it is not significantly ahead of: {names}."
        )
    if not results["baselines"]:
        yield _Caveat(
            "no baselines",
            "It was not compared with baselines. A threshold on the base's own probabilities may be as good.",
        )
    if error is not None and error > _MAX_CALIBRATION_ERROR:
        yield _Caveat(
            "miscalibrated",
            f"Doubt ranks questions, but it is not the probability of an error (calibration error {number(error)}). A "
            "doubt of 0.8 does not mean that four of five such answers are wrong.",
        )


def _is_ahead(row: Mapping[str, Any]) -> bool:
    ours, theirs = row["doubter"]["selective_accuracy"]["value"], row["selective_accuracy"]["value"]
    return ours is not None and theirs is not None and ours > theirs and row["doubter"]["p_value"] < _SIGNIFICANCE


def _with_sign(p: float) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"
