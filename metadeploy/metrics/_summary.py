"""Every metric of one run, ready for JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metadeploy.metrics._calibration import brier, ece
from metadeploy.metrics._inputs import BoolArray, FloatArray, MetricInputError, flags, labels, same_length, scores
from metadeploy.metrics._intervals import Statistic, bootstrap_interval, clusters, share_intervals
from metadeploy.metrics._proportions import (
    abstention,
    base_accuracy,
    corrections,
    coverage,
    kept_rate,
    over_refusal_rate,
    refusal_precision,
    refusal_rate,
    same_words_rate,
    selective_accuracy,
    smart_refusal_rate,
)
from metadeploy.metrics._ranking import (
    MIN_EACH,
    auprc,
    aurc,
    auroc,
    category_pairs,
    e_aurc,
    macro_auroc,
    pooled_auroc,
    prr,
    qualified,
)
from metadeploy.metrics._significance import mcnemar
from metadeploy.proportion import Share, figure

__all__ = ["shares", "summarize"]

_Ranking: TypeAlias = Callable[[FloatArray, BoolArray], "float | None"]
_Index: TypeAlias = "NDArray[np.intp] | BoolArray | slice"

_RANKINGS: dict[str, _Ranking] = {
    "auroc": auroc,
    "auprc": auprc,
    "aurc": aurc,
    "e_aurc": e_aurc,
    "prr": prr,
    "ece": ece,
    "brier": brier,
}


def shares(base_correct: ArrayLike, answered: ArrayLike, correct: ArrayLike, same_words: ArrayLike) -> dict[str, Share]:
    """Compute every metric that is a proportion of questions, by name.

    Args:
        base_correct: bool [n].
        answered: bool [n].
        correct: bool [n].
        same_words: bool [n].

    Raises:
        MetricInputError: the input is malformed.
    """
    corrected_broken = corrections(base_correct, answered, correct)
    precision_recall = abstention(base_correct, answered)
    return {
        "base_accuracy": base_accuracy(base_correct),
        "coverage": coverage(answered),
        "selective_accuracy": selective_accuracy(answered, correct),
        "refusal_rate": refusal_rate(answered),
        "refusal_precision": refusal_precision(base_correct, answered),
        "smart_refusal_rate": smart_refusal_rate(base_correct, answered),
        "over_refusal_rate": over_refusal_rate(base_correct, answered),
        "kept_rate": kept_rate(base_correct, answered, correct),
        "same_words_rate": same_words_rate(base_correct, answered, same_words),
        "corrected_rate": corrected_broken.corrected,
        "broken_rate": corrected_broken.broken,
        "abstention_precision": precision_recall.precision,
        "abstention_recall": precision_recall.recall,
    }


def summarize(
    base_correct: ArrayLike,
    answered: ArrayLike,
    correct: ArrayLike,
    same_words: ArrayLike,
    doubt: ArrayLike,
    category: ArrayLike,
    *,
    entity: ArrayLike | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute every metric with its 95 % bootstrap interval, with the same draws for all metrics.

    The bootstrap draws entities, each with all its questions, see `bootstrap_interval`. A proportion of which all or
    none are hits has Wilson's interval.

    The ranking and calibration metrics compare ``doubt`` with ``base_correct``, which is known for every question.

    Args:
        base_correct: bool [n], the base alone is right.
        answered: bool [n], the base with its Doubter answers.
        correct: bool [n], this answer is right; False if the Doubter declined.
        same_words: bool [n], this answer is the base's own text; ignored if the Doubter declined.
        doubt: float [n] in [0, 1].
        category: text or whole numbers [n].
        entity: as in `bootstrap_interval`.
        n_bootstrap: number of draws, at least 1.
        seed: seed of the draws.

    Returns:
        * ``n``: number of questions.
        * ``metrics``: by name ``{"value", "low", "high", "n"}``. ``n`` is the denominator of a proportion, or the
          number of questions that count. Undefined values are None.
        * ``mcnemar``: base against Doubter, ``{"only_base", "only_doubter", "p_value"}``. A question counts for the
          base if the base is right, and for the Doubter if its answer is right or it declined an error of the base.
        * ``categories``: by name the values without intervals, with ``n``.
        * ``bootstrap``: ``{"n_resamples", "seed", "confidence", "entities"}``; ``entities`` is their number.

        It has only built-in types, and no NaN.

    Raises:
        MetricInputError: the input is malformed, or ``correct`` is True where the Doubter declined.
    """
    base, is_answered, right, same = flags(
        base_correct=base_correct, answered=answered, correct=correct, same_words=same_words
    )
    (doubts,) = scores(doubt=doubt, probability=True)
    kinds = labels(category)
    same_length(base_correct=base, doubt=doubts, category=kinds)
    if (right & ~is_answered).any():
        at = int(np.argmax(right & ~is_answered))
        raise MetricInputError(f"metric input 'correct': True at index {at}, expected False if nothing is answered")
    questions = _Questions(base, is_answered, right, same, doubts)
    names, codes = np.unique(kinds, return_inverse=True)
    entities = clusters(len(base), entity)
    test = mcnemar(base, right | ~(is_answered | base))
    return {
        "n": len(base),
        "metrics": _metrics(questions, codes, entities, n_bootstrap, seed),
        "mcnemar": {"only_base": test.only_first, "only_doubter": test.only_second, "p_value": test.p_value},
        "categories": {str(name): questions.values_at(codes == code) for code, name in enumerate(names)},
        "bootstrap": {
            "n_resamples": n_bootstrap,
            "seed": seed,
            "confidence": 0.95,
            "entities": len(np.unique(entities)),
        },
    }


@dataclass(frozen=True)
class _Questions:
    """The checked arrays of `summarize`, [n] each."""

    base_correct: BoolArray
    answered: BoolArray
    correct: BoolArray
    same_words: BoolArray
    doubt: FloatArray

    def shares_at(self, at: _Index) -> dict[str, Share]:
        return shares(self.base_correct[at], self.answered[at], self.correct[at], self.same_words[at])

    def values_at(self, at: _Index) -> dict[str, Any]:
        values: dict[str, Any] = {"n": len(self.doubt[at])}
        values |= {name: share.value for name, share in self.shares_at(at).items()}
        return values | {"auroc": auroc(self.doubt[at], self.base_correct[at])}


def _metrics(
    questions: _Questions, codes: NDArray[np.intp], entities: NDArray[np.intp], n_bootstrap: int, seed: int
) -> dict[str, Any]:
    """Compute every metric with its interval.

    Args:
        questions: the n questions.
        codes: intp [n], the category of each question.
        entities: intp [n], the entity of each question.
        n_bootstrap: number of draws.
        seed: seed of the draws.
    """
    base, doubts, n = questions.base_correct, questions.doubt, len(questions.doubt)

    def estimate(statistic: Statistic, among: BoolArray | None = None) -> dict[str, Any]:
        """Compute value and interval over the questions that count. Draws take all questions, so they stay paired."""
        counted = np.ones(n, np.bool_) if among is None else among
        value = statistic(np.flatnonzero(counted))
        interval = (
            None
            if value is None
            else bootstrap_interval(
                lambda at: statistic(at[counted[at]]), n, entity=entities, n_resamples=n_bootstrap, seed=seed
            )
        )
        return figure(value, interval, int(counted.sum()))

    def estimate_ranking(ranking: _Ranking) -> dict[str, Any]:
        return estimate(lambda at: ranking(doubts[at], base[at]))

    intervals = share_intervals(
        lambda at: list(questions.shares_at(at).values()), n, entity=entities, n_resamples=n_bootstrap, seed=seed
    )
    metrics = {
        name: figure(share.value, interval, share.total)
        for (name, share), interval in zip(questions.shares_at(slice(None)).items(), intervals, strict=True)
    }
    # decided once, because the number of errors in a category changes from draw to draw
    counts = qualified(category_pairs(doubts, base, codes), MIN_EACH)[codes]
    metrics["abstention_f1"] = estimate(lambda at: abstention(base[at], questions.answered[at]).f1)
    metrics |= {name: estimate_ranking(ranking) for name, ranking in _RANKINGS.items()}
    metrics["macro_auroc"] = estimate(lambda at: macro_auroc(doubts[at], base[at], codes[at], min_each=1), counts)
    metrics["pooled_auroc"] = estimate(lambda at: pooled_auroc(doubts[at], base[at], codes[at]))
    return metrics
