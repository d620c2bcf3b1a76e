"""Where between answering and declining the line is drawn.

From epoch to epoch and from seed to seed the arg-max of answer and refusal swings; the order of the doubts does not. So
the line is drawn on the validation questions and stored as a bias of the refusal's first token: doubt 0.5 is that line.
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
    """A line and what it does on the questions that it was drawn on.

    Attributes:
        bias: added to the logit of the refusal's first token.
        coverage: proportion of the questions that are answered.
        selective_accuracy: proportion of the answered questions that the base has right; None if none is answered.
        over_refusal: share of what the base has right that is declined; None where it has nothing right.
    """

    bias: float
    coverage: float
    selective_accuracy: float | None
    over_refusal: float | None

    def summary(self) -> dict[str, float | None]:
        """As JSON has it, without the bias."""
        return {
            "coverage": self.coverage,
            "selective_accuracy": self.selective_accuracy,
            "over_refusal": self.over_refusal,
        }


def calibrate(margins: NDArray[np.float64], base_correct: NDArray[np.bool_], point: OperatingPoint) -> Calibrated:
    """Draw the line.

    Args:
        margins: [n] doubt margins; a question is declined where margin + bias >= 0.
        base_correct: [n].
        point: what is wanted.

    Returns:
        The line halfway between two neighbouring margins.

    Raises:
        RunDirError: there is no question, or none that the base has right where over-refusal is to be bounded.
    """
    if not len(margins):
        raise RunDirError("calibration: there are no validation questions, expected some to draw the line on")
    order = np.sort(margins)
    if point.target_coverage is not None:
        # equal margins fall on one side: as near as they allow
        ends = [0, *(np.flatnonzero(np.diff(order)) + 1).tolist(), len(order)]
        wanted = nearest(point.target_coverage, len(order))
        n_answered = min(ends, key=lambda end: abs(end - wanted))
    else:
        assert point.max_over_refusal is not None
        right = np.sort(margins[base_correct])
        if not len(right):
            raise RunDirError("calibration: the base has no validation question right, expected some")
        # this many of the right answers must be given; the line lies just above the last of them
        n_given = len(right) - at_most(point.max_over_refusal, len(right))
        n_answered = 0 if n_given == 0 else int(np.searchsorted(order, right[n_given - 1], side="right"))
    if n_answered == 0:
        line = order[0] - 1.0
    elif n_answered == len(order):
        line = order[-1] + 1.0
    else:
        line = (order[n_answered - 1] + order[n_answered]) / 2
    answered = margins < line
    return Calibrated(
        bias=float(-line),
        coverage=float(answered.mean()),
        selective_accuracy=float(base_correct[answered].mean()) if answered.any() else None,
        over_refusal=float((~answered)[base_correct].mean()) if base_correct.any() else None,
    )
