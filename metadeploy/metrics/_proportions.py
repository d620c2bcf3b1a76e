"""Metrics that are proportions of questions."""

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
    """Count the questions of a set and of its subset ``hits``."""
    return Share(int(hits.sum()), int(among.sum()))


def base_accuracy(base_correct: ArrayLike) -> Share:
    """Proportion of questions that the base alone answers correctly: right / all.

    Range 0 to 1, higher is better; undefined without questions. Compare selective accuracy with it.
    """
    (right,) = flags(base_correct=base_correct)
    return Share(int(right.sum()), len(right))


def coverage(answered: ArrayLike) -> Share:
    """Proportion of questions that are answered: answered / all.

    Range 0 to 1; higher is better at the same selective accuracy, and means nothing without it. Undefined without
    questions.

    Source: El-Yaniv and Wiener, "On the foundations of noise-free selective classification", 2010.
    """
    (is_answered,) = flags(answered=answered)
    return Share(int(is_answered.sum()), len(is_answered))


def selective_accuracy(answered: ArrayLike, correct: ArrayLike) -> Share:
    """Proportion of right answers among the answered questions: answered and right / answered.

    Range 0 to 1, higher is better; undefined if nothing is answered, so that declining everything does not win.

    Source: El-Yaniv and Wiener, "On the foundations of noise-free selective classification", 2010 (one minus the
    selective risk).
    """
    is_answered, right = flags(answered=answered, correct=correct)
    return _share(is_answered & right, is_answered)


def refusal_rate(answered: ArrayLike) -> Share:
    """Proportion of questions that are declined: declined / all = 1 − coverage.

    Range 0 to 1; neither direction is better by itself. Undefined without questions.
    """
    (is_answered,) = flags(answered=answered)
    return Share(int((~is_answered).sum()), len(is_answered))


def refusal_precision(base_correct: ArrayLike, answered: ArrayLike) -> Share:
    """Proportion of declined questions that the base gets wrong: declined and the base was wrong / declined.

    Range 0 to 1, higher is better. The oracle, which declines exactly the base's errors, has 1; declining at random has
    1 − base accuracy. Undefined if nothing is declined.
    """
    right, is_answered = flags(base_correct=base_correct, answered=answered)
    return _share(~is_answered & ~right, ~is_answered)


def smart_refusal_rate(base_correct: ArrayLike, answered: ArrayLike) -> Share:
    """Proportion of the base's errors that are declined: declined and the base was wrong / the base was wrong.

    Range 0 to 1, higher is better; declining at random has the refusal rate. Undefined if the base makes no errors.
    """
    right, is_answered = flags(base_correct=base_correct, answered=answered)
    return _share(~is_answered & ~right, ~right)


def over_refusal_rate(base_correct: ArrayLike, answered: ArrayLike) -> Share:
    """Proportion of the base's right answers that are declined: declined and the base was right / the base was right.

    Range 0 to 1, lower is better; declining at random has the refusal rate. Undefined if the base is never right.
    """
    right, is_answered = flags(base_correct=base_correct, answered=answered)
    return _share(~is_answered & right, right)


def kept_rate(base_correct: ArrayLike, answered: ArrayLike, correct: ArrayLike) -> Share:
    """Proportion of the base's right answers that stay right, among those that the Doubter does not decline.

    Answered, base right and still right / answered and base right. Range 0 to 1, higher is better; 1 means that the
    injection spoils no answer. Undefined if the Doubter declines every right answer of the base.
    """
    base, is_answered, right = flags(base_correct=base_correct, answered=answered, correct=correct)
    not_declined = is_answered & base
    return _share(not_declined & right, not_declined)


def same_words_rate(base_correct: ArrayLike, answered: ArrayLike, same_words: ArrayLike) -> Share:
    """Proportion of the base's right answers that keep their text, among those that the Doubter does not decline.

    Answered, base right and the same text / answered and base right. Range 0 to 1, higher is better; 1 means that the
    injection changes none of them. Never above `kept_rate`, which also counts answers that are still right in
    other words. Undefined if the Doubter declines every right answer of the base.

    Source: the exact match of Rajpurkar et al., "SQuAD: 100,000+ questions for machine comprehension of text", 2016,
    with the base's answer as the reference, and without changes of case and punctuation.
    """
    base, is_answered, same = flags(base_correct=base_correct, answered=answered, same_words=same_words)
    not_declined = is_answered & base
    return _share(not_declined & same, not_declined)


@dataclass(frozen=True)
class Corrections:
    """Answers that the injection changed from wrong to right, and from right to wrong.

    Attributes:
        corrected: proportion of the base's errors to which the Doubter gives a right answer. Higher is better.
        broken: proportion of the base's right answers to which the Doubter gives a wrong answer. Lower is better.
    """

    corrected: Share
    broken: Share

    @property
    def net(self) -> int:
        """Corrected minus broken answers. Refusals do not count."""
        return self.corrected.hits - self.broken.hits


def corrections(base_correct: ArrayLike, answered: ArrayLike, correct: ArrayLike) -> Corrections:
    """Count the answers that the injection changed from wrong to right, and from right to wrong.

    ``corrected`` = base wrong, answered and right / base wrong; ``broken`` = base right, answered and wrong / base
    right. Each 0 to 1, undefined where its denominator is 0.
    """
    base, is_answered, right = flags(base_correct=base_correct, answered=answered, correct=correct)
    return Corrections(
        corrected=_share(~base & is_answered & right, ~base),
        broken=_share(base & is_answered & ~right, base),
    )


@dataclass(frozen=True)
class Abstention:
    """How well declining finds the base's errors.

    Attributes:
        precision: the refusal precision, under its usual name.
        recall: the smart-refusal rate, under its usual name.
        f1: harmonic mean of the two; None if nothing is declined and the base makes no errors.
    """

    precision: Share
    recall: Share
    f1: float | None


def abstention(base_correct: ArrayLike, answered: ArrayLike) -> Abstention:
    """Score declining as the prediction "the base alone is wrong".

    F1 = 2 · declined and wrong / (declined + wrong). Each 0 to 1, higher is better. Declining everything has recall 1
    and precision 1 − base accuracy; compare F1 with the F1 of that.

    Source: van Rijsbergen, "Information Retrieval", 1979.
    """
    precision = refusal_precision(base_correct, answered)
    recall = smart_refusal_rate(base_correct, answered)
    denominator = precision.total + recall.total
    return Abstention(precision, recall, 2 * precision.hits / denominator if denominator else None)
