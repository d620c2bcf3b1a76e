"""Corrections: what the Doubter's answers put right, and what they spoil."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from metadeploy.evaluation.metrics.inputs import flags
from metadeploy.proportion import Share

__all__ = ["Corrections", "corrections"]


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

    Args:
        base_correct: bool [n].
        answered: bool [n].
        correct: bool [n].

    Raises:
        MetricInputError: the input is malformed.
    """
    base, given, right = flags(base_correct=base_correct, answered=answered, correct=correct)
    return Corrections(
        corrected=Share(int((~base & given & right).sum()), int((~base).sum())),
        broken=Share(int((base & given & ~right).sum()), int(base.sum())),
    )
