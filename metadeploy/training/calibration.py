"""Choose the threshold between answering and declining.

The arg-max of answer and refusal varies from epoch to epoch and from seed to seed, but the order of the doubts does
not. So the threshold is chosen on the validation questions and stored as a bias on the refusal's first token. With this
bias, the threshold is at doubt 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metadeploy._exact import at_most, nearest
from metadeploy.errors import RunDirError
from metadeploy.training.settings import OperatingPoint

__all__ = ["Calibrated", "OperatingPoint", "calibrate"]


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A threshold and its results on the questions on which it was chosen.

    Attributes:
        bias: offset that is added to the logit of the refusal's first token.
        coverage: proportion of the questions that are answered.
        selective_accuracy: proportion of right answers among the answered questions; None if none is answered.
        over_refusal: proportion of the base's right answers that are declined; None if the base has no right answer.
    """

    bias: float
    coverage: float
    selective_accuracy: float | None
    over_refusal: float | None

    def summary(self) -> dict[str, float | None]:
        """Return the results for run.json, without the bias."""
        return {
            "coverage": self.coverage,
            "selective_accuracy": self.selective_accuracy,
            "over_refusal": self.over_refusal,
        }


def calibrate(margins: NDArray[np.float64], base_correct: NDArray[np.bool_], point: OperatingPoint) -> Calibrated:
    """Choose the threshold.

    Args:
        margins: [n] doubt margins; a question is declined if margin + bias >= 0.
        base_correct: [n] whether the base answers correctly.
        point: the requested operating point.

    Returns:
        The threshold, halfway between two adjacent margins.

    Raises:
        RunDirError: there are no questions, or over-refusal is bounded and the base has no right answer.
    """
    if not len(margins):
        raise RunDirError("calibration: there are no validation questions, expected some to choose the threshold on")
    sorted_margins = np.sort(margins)
    if point.target_coverage is not None:
        # equal margins cannot be separated: take the nearest count that does not separate any
        boundaries = [0, *(np.flatnonzero(np.diff(sorted_margins)) + 1).tolist(), len(sorted_margins)]
        target = nearest(point.target_coverage, len(sorted_margins))
        n_answered = min(boundaries, key=lambda n: abs(n - target))
    else:
        assert point.max_over_refusal is not None
        correct_margins = np.sort(margins[base_correct])
        if not len(correct_margins):
            raise RunDirError("calibration: the base has no right answer to a validation question, expected some")
        # this many right answers must not be declined; the threshold is just above the last of their margins
        n_required = len(correct_margins) - at_most(point.max_over_refusal, len(correct_margins))
        n_answered = 0
        if n_required:
            n_answered = int(np.searchsorted(sorted_margins, correct_margins[n_required - 1], side="right"))
    if n_answered == 0:
        threshold = sorted_margins[0] - 1.0
    elif n_answered == len(sorted_margins):
        threshold = sorted_margins[-1] + 1.0
    else:
        threshold = (sorted_margins[n_answered - 1] + sorted_margins[n_answered]) / 2
    answered = margins < threshold
    return Calibrated(
        bias=float(-threshold),
        coverage=float(answered.mean()),
        selective_accuracy=float(base_correct[answered].mean()) if answered.any() else None,
        over_refusal=float((~answered)[base_correct].mean()) if base_correct.any() else None,
    )
