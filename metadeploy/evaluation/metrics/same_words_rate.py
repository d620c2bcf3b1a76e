"""Same-words rate: how many right answers keep the base's very text."""

from __future__ import annotations

from numpy.typing import ArrayLike

from metadeploy.evaluation.metrics.inputs import flags
from metadeploy.proportion import Share

__all__ = ["same_words_rate"]


def same_words_rate(base_correct: ArrayLike, answered: ArrayLike, same_words: ArrayLike) -> Share:
    """How many right answers of the base come out as the base's own text where the Doubter lets them pass.

    Answered, base right and the same text / answered and base right. Range 0 to 1, higher is better; 1 means that the
    injection does not touch what it lets pass. Never above `kept_rate`, which also counts what is still right in other
    words. Undefined where no right answer of the base passes.

    Source: the exact match of Rajpurkar et al., "SQuAD: 100,000+ questions for machine comprehension of text", 2016,
    with the base's answer as the reference, and case and punctuation as they are.

    Args:
        base_correct: bool [n].
        answered: bool [n].
        same_words: bool [n].

    Raises:
        MetricInputError: the input is malformed.
    """
    base, given, same = flags(base_correct=base_correct, answered=answered, same_words=same_words)
    passed = given & base
    return Share(int((passed & same).sum()), int(passed.sum()))
