"""Abstention as a classification: precision, recall, F1."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from metadeploy.evaluation.metrics.refusal_precision import refusal_precision
from metadeploy.evaluation.metrics.smart_refusal_rate import smart_refusal_rate
from metadeploy.proportion import Share

__all__ = ["Abstention", "abstention"]


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

    Args:
        base_correct: bool [n].
        answered: bool [n].

    Raises:
        MetricInputError: the input is malformed.
    """
    precision = refusal_precision(base_correct, answered)
    recall = smart_refusal_rate(base_correct, answered)
    called = precision.total + recall.total
    return Abstention(precision, recall, 2 * precision.hits / called if called else None)
