"""Every metric of one run, ready for JSON."""

from __future__ import annotations

from collections.abc import Callable
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

__all__ = ["shares", "summarise"]

_Ranking: TypeAlias = Callable[[FloatArray, BoolArray], "float | None"]

_RANKINGS: dict[str, _Ranking] = {
    "auroc": auroc,
    "auprc": auprc,
    "aurc": aurc,
    "e_aurc": e_aurc,
    "prr": prr,
    "ece": ece,
    "brier": brier,
}

#: A category's own AUROC needs as many errors and as many right answers.
_MIN_EACH = 5


def shares(base_correct: ArrayLike, answered: ArrayLike, correct: ArrayLike, same_words: ArrayLike) -> dict[str, Share]:
    """Every metric that is a share of questions, by name.

    Args:
        base_correct: bool [n].
        answered: bool [n].
        correct: bool [n].
        same_words: bool [n].

    Raises:
        MetricInputError: the input is malformed.
    """
    changed = corrections(base_correct, answered, correct)
    declining = abstention(base_correct, answered)
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
        "corrected_rate": changed.corrected,
        "broken_rate": changed.broken,
        "abstention_precision": declining.precision,
        "abstention_recall": declining.recall,
    }


def summarise(
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
    """Compute every metric with its 95 % interval: the bootstrap's, with the same draws for all of them.

    What is drawn are entities, each with all questions about it, see `bootstrap_interval`. A share of which all or none
    is a hit has Wilson's interval.

    The ranking and calibration metrics judge ``doubt`` against ``base_correct``, which is known for every question.

    Args:
        base_correct: bool [n], the base alone is right.
        answered: bool [n], the base with its Doubter answers.
        correct: bool [n], that answer is right; False where it declined.
        same_words: bool [n], that answer is the base's own text; of no matter where it declined.
        doubt: float [n] in [0, 1].
        category: text or whole numbers [n].
        entity: text or whole numbers [n], what a question is about; an empty text stands for itself, and None for n of
            these.
        n_bootstrap: how often the entities are drawn anew, at least 1.
        seed: of those draws.

    Returns:
        * ``n``: number of questions.
        * ``metrics``: by name ``{"value", "low", "high", "n"}``; ``n`` is the denominator of a share, else the
          number of questions that count; None where undefined.
        * ``mcnemar``: base against Doubter, ``{"only_base", "only_doubter", "p_value"}``; a question counts for the
          base if it is right, and for the Doubter if its answer is right or it declined an error of the base.
        * ``categories``: by name the plain values, with ``n``.
        * ``bootstrap``: ``{"n_resamples", "seed", "confidence", "entities"}``, the last one their number.

        Python's own types only, no NaN.

    Raises:
        MetricInputError: the input is malformed, or ``correct`` is True where the Doubter declined.
    """
    base, given, right, same = flags(
        base_correct=base_correct, answered=answered, correct=correct, same_words=same_words
    )
    (doubts,) = scores(doubt=doubt, probability=True)
    kinds = labels(category)
    same_length(base_correct=base, doubt=doubts, category=kinds)
    if (right & ~given).any():
        at = int(np.argmax(right & ~given))
        raise MetricInputError(f"metric input 'correct': True at index {at}, expected False where nothing is answered")

    n, about = len(base), clusters(len(base), entity)

    def drawn(statistic: Statistic, among: BoolArray | None = None) -> dict[str, Any]:
        """Value and interval over the questions that count; all are drawn, so that draws stay paired."""
        counted = np.ones(n, np.bool_) if among is None else among
        value = statistic(np.flatnonzero(counted))
        interval = (
            None
            if value is None
            else bootstrap_interval(
                lambda at: statistic(at[counted[at]]), n, entity=about, n_resamples=n_bootstrap, seed=seed
            )
        )
        return figure(value, interval, int(counted.sum()))

    def ranked(ranking: _Ranking) -> dict[str, Any]:
        return drawn(lambda at: ranking(doubts[at], base[at]))

    def shares_at(at: NDArray[np.intp]) -> list[Share]:
        return list(shares(base[at], given[at], right[at], same[at]).values())

    names, codes = np.unique(kinds, return_inverse=True)
    # which categories count is decided once, and not anew by each draw with its chance numbers of errors
    counts = qualified(category_pairs(doubts, base, codes), _MIN_EACH)[codes]
    intervals = share_intervals(shares_at, n, entity=about, n_resamples=n_bootstrap, seed=seed)
    metrics = {
        name: figure(share.value, interval, share.total)
        for (name, share), interval in zip(shares(base, given, right, same).items(), intervals, strict=True)
    }
    metrics["abstention_f1"] = drawn(lambda at: abstention(base[at], given[at]).f1)
    metrics |= {name: ranked(ranking) for name, ranking in _RANKINGS.items()}
    metrics["macro_auroc"] = drawn(lambda at: macro_auroc(doubts[at], base[at], codes[at], min_each=1), counts)
    metrics["pooled_auroc"] = drawn(lambda at: pooled_auroc(doubts[at], base[at], codes[at]))
    test = mcnemar(base, right | ~(given | base))
    return {
        "n": n,
        "metrics": metrics,
        "mcnemar": {"only_base": test.only_first, "only_doubter": test.only_second, "p_value": test.p_value},
        "categories": {
            str(name): _plain(base[at], given[at], right[at], same[at], doubts[at])
            for name, at in ((name, codes == code) for code, name in enumerate(names))
        },
        "bootstrap": {
            "n_resamples": n_bootstrap,
            "seed": seed,
            "confidence": 0.95,
            "entities": len(np.unique(about)),
        },
    }


def _plain(base: BoolArray, given: BoolArray, right: BoolArray, same: BoolArray, doubts: FloatArray) -> dict[str, Any]:
    values: dict[str, Any] = {"n": len(base)}
    values |= {name: share.value for name, share in shares(base, given, right, same).items()}
    return values | {"auroc": auroc(doubts, base)}
