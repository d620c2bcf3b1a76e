"""AUROC of doubt for base error."""

from __future__ import annotations

from numpy.typing import ArrayLike
from scipy.stats import rankdata

from metadeploy.evaluation.metrics.inputs import scored

__all__ = ["auroc"]


def auroc(doubt: ArrayLike, base_correct: ArrayLike) -> float | None:
    """How often an error is doubted more than a right answer, over all pairs of the two; an equal doubt counts half.

    With R the sum of the ranks of the W errors among all doubts, (R − W·(W+1)/2) / (W · right answers). Range 0 to 1,
    higher is better, 0.5 is no information. By ranks, because the bootstrap asks thousands of times; the same number as
    scikit-learn's ``roc_auc_score``.

    Source: Hanley and McNeil, "The meaning and use of the area under a receiver operating characteristic curve", 1982.

    Args:
        doubt: float [n], finite; only its order matters.
        base_correct: bool [n].

    Returns:
        The area; None where there is no error or no right answer.

    Raises:
        MetricInputError: the input is malformed.
    """
    doubts, right = scored(doubt, base_correct)
    rights = int(right.sum())
    wrongs = len(right) - rights
    if not rights or not wrongs:
        return None
    won = rankdata(doubts)[~right].sum() - wrongs * (wrongs + 1) / 2
    return float(won / (wrongs * rights))
