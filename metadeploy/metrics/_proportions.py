"""Metrics that are proportions of questions: each counts the questions of one kind among those of another."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from metadeploy.metrics._inputs import BoolArray, flags
from metadeploy.proportion import Share

__all__ = [
    "Abstention",
    "Corrections",
    "abstention",
    "base_accuracy",
    "corrections",
    "coverage",
    "kept_rate",
    "over_refusal_rate",
    "refusal_precision",
    "refusal_rate",
    "same_words_rate",
    "selective_accuracy",
    "smart_refusal_rate",
]


def _share(hits: BoolArray, among: BoolArray) -> Share:
    """Count two sets of questions, the first a part of the second."""
    return Share(int(hits.sum()), int(among.sum()))


def base_accuracy(base_correct: ArrayLike) -> Share:
    """How often the base alone is right: right / all.

    Range 0 to 1, higher is better; undefined without questions. It is what selective accuracy is measured against.
    """
    (right,) = flags(base_correct=base_correct)
    return Share(int(right.sum()), len(right))


def coverage(answered: ArrayLike) -> Share:
    """How much is answered: answered / all.

    Range 0 to 1; higher is better at the same selective accuracy, and means nothing without it. Undefined without
    questions.

    Source: El-Yaniv and Wiener, "On the foundations of noise-free selective classification", 2010.
    """
    (given,) = flags(answered=answered)
    return Share(int(given.sum()), len(given))


def selective_accuracy(answered: ArrayLike, correct: ArrayLike) -> Share:
    """How often an answer that is given is right: answered and right / answered.

    Range 0 to 1, higher is better; undefined where nothing is answered, so that declining everything does not win.

    Source: El-Yaniv and Wiener, "On the foundations of noise-free selective classification", 2010 (one minus the
    selective risk).
    """
    given, right = flags(answered=answered, correct=correct)
    return _share(given & right, given)


def refusal_rate(answered: ArrayLike) -> Share:
    """How much is declined: declined / all = 1 − coverage.

    Range 0 to 1; neither direction is better by itself. Undefined without questions.
    """
    (given,) = flags(answered=answered)
    return Share(int((~given).sum()), len(given))


def refusal_precision(base_correct: ArrayLike, answered: ArrayLike) -> Share:
    """How often a refusal was called for: declined and the base was wrong / declined.

    The oracle declines exactly what the base gets wrong. Range 0 to 1, higher is better; declining at random scores
    1 − base accuracy. Undefined where nothing is declined.
    """
    right, given = flags(base_correct=base_correct, answered=answered)
    return _share(~given & ~right, ~given)


def smart_refusal_rate(base_correct: ArrayLike, answered: ArrayLike) -> Share:
    """How many of the base's errors are declined: declined and the base was wrong / the base was wrong.

    Range 0 to 1, higher is better; declining at random scores the refusal rate. Undefined where the base errs nowhere.
    """
    right, given = flags(base_correct=base_correct, answered=answered)
    return _share(~given & ~right, ~right)


def over_refusal_rate(base_correct: ArrayLike, answered: ArrayLike) -> Share:
    """How many of the base's right answers are lost: declined and the base was right / the base was right.

    Range 0 to 1, lower is better; declining at random scores the refusal rate. Undefined where the base is never right.
    """
    right, given = flags(base_correct=base_correct, answered=answered)
    return _share(~given & right, right)


def kept_rate(base_correct: ArrayLike, answered: ArrayLike, correct: ArrayLike) -> Share:
    """How many right answers of the base stay right where the Doubter lets them pass.

    Answered, base right and still right / answered and base right. Range 0 to 1, higher is better; 1 means that the
    injection spoils no answer. Undefined where no right answer of the base passes.
    """
    base, given, right = flags(base_correct=base_correct, answered=answered, correct=correct)
    passed = given & base
    return _share(passed & right, passed)


def same_words_rate(base_correct: ArrayLike, answered: ArrayLike, same_words: ArrayLike) -> Share:
    """How many right answers of the base come out as the base's own text where the Doubter lets them pass.

    Answered, base right and the same text / answered and base right. Range 0 to 1, higher is better; 1 means that the
    injection does not touch what it lets pass. Never above `kept_rate`, which also counts what is still right in other
    words. Undefined where no right answer of the base passes.

    Source: the exact match of Rajpurkar et al., "SQuAD: 100,000+ questions for machine comprehension of text", 2016,
    with the base's answer as the reference, and case and punctuation as they are.
    """
    base, given, same = flags(base_correct=base_correct, answered=answered, same_words=same_words)
    passed = given & base
    return _share(passed & same, passed)


@dataclass(frozen=True)
class Corrections:
    """Answers whose verdict changed.

    Attributes:
        corrected: the base was wrong, the Doubter answers and is right; of the base's errors. Higher is better.
        broken: the base was right, the Doubter answers and is wrong; of the base's right answers. Lower is better.
    """

    corrected: Share
    broken: Share

    @property
    def net(self) -> int:
        """Questions gained minus questions lost by changed answers; refusals do not count."""
        return self.corrected.hits - self.broken.hits


def corrections(base_correct: ArrayLike, answered: ArrayLike, correct: ArrayLike) -> Corrections:
    """Count the answers that the injection changed from wrong to right, and from right to wrong.

    ``corrected`` = base wrong, answered and right / base wrong; ``broken`` = base right, answered and wrong / base
    right. Each 0 to 1, undefined where its denominator is 0.
    """
    base, given, right = flags(base_correct=base_correct, answered=answered, correct=correct)
    return Corrections(
        corrected=_share(~base & given & right, ~base),
        broken=_share(base & given & ~right, base),
    )


@dataclass(frozen=True)
class Abstention:
    """How well declining finds the base's errors.

    Attributes:
        precision: the refusal precision under its usual name.
        recall: the smart-refusal rate under its usual name.
        f1: harmonic mean of the two; None where nothing is declined and the base errs nowhere.
    """

    precision: Share
    recall: Share
    f1: float | None


def abstention(base_correct: ArrayLike, answered: ArrayLike) -> Abstention:
    """Judge declining as the prediction "the base alone is wrong".

    F1 = 2 · declined and wrong / (declined + wrong). Each 0 to 1, higher is better. Declining everything has recall 1
    and precision 1 − base accuracy: read F1 beside the F1 of that.

    Source: van Rijsbergen, "Information Retrieval", 1979.
    """
    precision = refusal_precision(base_correct, answered)
    recall = smart_refusal_rate(base_correct, answered)
    called = precision.total + recall.total
    return Abstention(precision, recall, 2 * precision.hits / called if called else None)
