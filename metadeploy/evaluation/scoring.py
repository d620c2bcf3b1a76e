"""Computes the results of samples, ready for JSON: metrics with intervals, baselines, and the sweep of the gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from metadeploy._exact import at_least
from metadeploy.evaluation.baselines import Comparison
from metadeploy.evaluation.samples import AtGain, Samples, declines
from metadeploy.metrics import auroc, bootstrap_intervals, selective_accuracies_at, summarize
from metadeploy.proportion import figure

__all__ = [
    "COVERAGES",
    "FIRST_LOGPROB",
    "LOGPROB",
    "PROMPTED",
    "SCHEMA",
    "accuracy_at_coverages",
    "baseline_scores",
    "gain_points",
    "score_samples",
    "selective_point",
]

#: Version of the results' layout.
SCHEMA: Final = 1

#: Names of the baselines without training, in results.
LOGPROB: Final = "mean log-probability"
FIRST_LOGPROB: Final = "first token's log-probability"
PROMPTED: Final = "told that it may decline"

#: Coverages at which every evaluation reports selective accuracy, independent of its threshold.
COVERAGES: Final = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)


def baseline_scores(samples: Samples, trained: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Return every score to compare the Doubter with. A higher score means more doubt.

    Args:
        samples: the questions.
        trained: scores of trained baselines, float64 [n] by name.
    """
    return {
        LOGPROB: _negative_logprobs([sample.base_logprob for sample in samples]),
        FIRST_LOGPROB: _negative_logprobs([sample.base_first_logprob for sample in samples]),
        **trained,
    }


def _negative_logprobs(logprobs: Sequence[float | None]) -> NDArray[np.float64]:
    """Return float64 [n]. An empty answer, which is always wrong, gets the highest value."""
    lowest = min((logprob for logprob in logprobs if logprob is not None), default=0.0)
    return -np.array([lowest - 1 if logprob is None else logprob for logprob in logprobs], dtype=np.float64)


def score_samples(
    samples: Samples,
    *,
    threshold: float,
    refusal_text: str,
    scores: Mapping[str, NDArray[np.float64]],
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute all results of the samples.

    Args:
        samples: the questions, at least one.
        threshold: decline if doubt is at least this.
        refusal_text: the trained refusal.
        scores: baselines, float64 [n] by name; empty for no baselines.
        n_bootstrap: number of draws for each interval.
        seed: seed of the draws.

    Returns:
        The results of `metadeploy.metrics.summarize`, and ``least_doubted``, ``refusals``, ``baselines`` and ``gains``.
    """
    answered = ~samples.abstained(threshold)
    summary = summarize(
        samples.base_correct,
        answered,
        answered & samples.answer_correct,
        samples.same_words,
        samples.doubt,
        samples.category,
        entity=samples.entity,
        n_bootstrap=n_bootstrap,
        seed=seed,
    )
    comparison = Comparison(samples=samples, n_bootstrap=n_bootstrap, seed=seed)
    baselines = [comparison.score(name, score, n_answered=int(answered.sum())) for name, score in scores.items()]
    prompted = [sample.told for sample in samples if sample.told is not None]
    if scores and len(prompted) == len(samples):
        declined = np.array([answer.declined for answer in prompted])
        correct = np.array([answer.correct for answer in prompted])
        baselines.append(comparison.point(PROMPTED, declined, correct))
    refusals = [sample.declined_text for sample in samples if sample.declined_text is not None]
    return {
        **summary,
        "least_doubted": accuracy_at_coverages(samples, n_bootstrap=n_bootstrap, seed=seed),
        "refusals": {
            "at_threshold": 0.5,
            "declined": len(refusals),
            "word_for_word": sum(text == refusal_text for text in refusals),
        },
        "baselines": baselines,
        "gains": gain_points(samples, threshold=threshold, n_bootstrap=n_bootstrap, seed=seed),
    }


def accuracy_at_coverages(samples: Samples, *, n_bootstrap: int = 2000, seed: int = 0) -> list[dict[str, Any]]:
    """Compute the Doubter's selective accuracy if it answers only its least doubted questions.

    Args:
        samples: the questions.
        n_bootstrap: number of draws for each interval.
        seed: seed of the draws.

    Returns:
        For each of `COVERAGES` ``coverage``, ``value``, ``low`` and ``high`` (None without questions) and ``n``, the
        number of answered questions, of which the last one may count in part.
    """
    doubt, right, n = samples.doubt, samples.answer_correct, len(samples)

    def accuracies(at: NDArray[np.intp]) -> list[float | None]:
        return selective_accuracies_at(doubt[at], right[at], coverages=COVERAGES)

    values = accuracies(np.arange(n))
    intervals = bootstrap_intervals(accuracies, n, entity=samples.entity, n_resamples=n_bootstrap, seed=seed) or [
        None
    ] * len(values)
    return [
        {"coverage": coverage, **figure(value, interval, at_least(coverage, n))}
        for coverage, value, interval in zip(COVERAGES, values, intervals, strict=True)
    ]


def gain_points(samples: Samples, *, threshold: float, n_bootstrap: int = 2000, seed: int = 0) -> list[dict[str, Any]]:
    """Compare two ways to set coverage: with the gain, and with the threshold.

    Args:
        samples: the questions; only questions of the sweep count.
        threshold: decline if doubt is at least this. At gain 0, which is the base exactly, nothing is declined.
        n_bootstrap: number of draws for each interval.
        seed: seed of the draws, and of the random order of ties.

    Returns:
        By ascending gain: ``gain``, ``auroc`` of its doubts, and the keys of `Comparison.point`. The Doubter that it is
        compared with has gain 1 and a threshold with the same coverage. Empty without a sweep.
    """
    swept = Samples(tuple(sample for sample in samples if sample.gains))
    comparison = Comparison(samples=swept, n_bootstrap=n_bootstrap, seed=seed)
    columns: dict[float, list[AtGain]] = {}
    for sample in swept:
        at_default = AtGain(gain=1.0, doubt=sample.doubt, answer_correct=sample.answer_correct)
        for reply in (at_default, *sample.gains):
            columns.setdefault(reply.gain, []).append(reply)
    points = []
    for gain, replies in sorted(columns.items()):
        declined = np.array([gain != 0 and declines(reply.doubt, threshold) for reply in replies])
        doubts = np.array([reply.doubt for reply in replies])
        correct = np.array([reply.answer_correct for reply in replies])
        point = comparison.point(f"gain {gain:g}", declined, correct)
        points.append({"gain": gain, **point, "auroc": auroc(doubts, swept.base_correct)})
    return points


def selective_point(point: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return coverage and selective accuracy of a point; None if nothing is answered."""
    coverage, accuracy = point["coverage"]["value"], point["selective_accuracy"]["value"]
    return None if not coverage or accuracy is None else (coverage, accuracy)
