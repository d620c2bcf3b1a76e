"""From samples to results: every metric with its interval, the baselines, the sweep of the gain; ready for JSON."""

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
    "FIRST_LOGPROB",
    "LEAST_DOUBTED",
    "LOGPROB",
    "SCHEMA",
    "TOLD",
    "baseline_scores",
    "gain_points",
    "judge",
    "least_doubted",
    "selective_point",
]

#: Version of the results' layout.
SCHEMA: Final = 1

#: What the baselines without training are called.
LOGPROB: Final = "mean log-probability"
FIRST_LOGPROB: Final = "first token's log-probability"
TOLD: Final = "told that it may decline"

#: Coverages at which every evaluation says how many answers are right, whatever its threshold.
LEAST_DOUBTED: Final = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)


def baseline_scores(samples: Samples, trained: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Every score that the Doubter is compared with, higher meaning more doubt.

    Args:
        samples: the questions.
        trained: scores that were learnt elsewhere, float64 [n] by name.
    """
    return {
        LOGPROB: _surprise([sample.base_logprob for sample in samples]),
        FIRST_LOGPROB: _surprise([sample.base_first_logprob for sample in samples]),
        **trained,
    }


def _surprise(logprobs: Sequence[float | None]) -> NDArray[np.float64]:
    """How unlikely answers are, float64 [n]; an empty one, which is always wrong, more than any other."""
    least = min((logprob for logprob in logprobs if logprob is not None), default=0.0)
    return -np.array([least - 1 if logprob is None else logprob for logprob in logprobs], dtype=np.float64)


def judge(
    samples: Samples,
    *,
    threshold: float,
    refusal_text: str,
    scores: Mapping[str, NDArray[np.float64]],
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute everything that the samples tell.

    Args:
        samples: the questions, at least one.
        threshold: declined where doubt reaches it.
        refusal_text: what the wrapper was trained to say.
        scores: baselines, float64 [n] by name; none leaves all baselines out.
        n_bootstrap: draws of each interval.
        seed: of the draws.

    Returns:
        What `metadeploy.metrics.summarize` gives, and ``least_doubted``, ``refusals``,
        ``baselines`` and ``gains``.
    """
    answered = ~samples.abstained(threshold)
    found = summarize(
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
    against = Comparison(samples=samples, n_bootstrap=n_bootstrap, seed=seed)
    baselines = [against.score(name, score, n_answered=int(answered.sum())) for name, score in scores.items()]
    told = [sample.told for sample in samples if sample.told is not None]
    if scores and len(told) == len(samples):
        declined, correct = np.array([each.declined for each in told]), np.array([each.correct for each in told])
        baselines.append(against.point(TOLD, declined, correct))
    spelt = [sample.declined_text for sample in samples if sample.declined_text is not None]
    return {
        **found,
        "least_doubted": least_doubted(samples, n_bootstrap=n_bootstrap, seed=seed),
        "refusals": {
            "at_threshold": 0.5,
            "declined": len(spelt),
            "word_for_word": sum(text == refusal_text for text in spelt),
        },
        "baselines": baselines,
        "gains": gain_points(samples, threshold=threshold, n_bootstrap=n_bootstrap, seed=seed),
    }


def least_doubted(samples: Samples, *, n_bootstrap: int = 2000, seed: int = 0) -> list[dict[str, Any]]:
    """How many answers of the Doubter are right if it answers only what it doubts least.

    Args:
        samples: the questions.
        n_bootstrap: draws of each interval.
        seed: of the draws.

    Returns:
        For each of `LEAST_DOUBTED` ``coverage``, ``value``, ``low`` and ``high`` (None without questions) and ``n``,
        the questions that are answered then, the last one perhaps in part.
    """
    doubt, right, n = samples.doubt, samples.answer_correct, len(samples)

    def right_of_these(at: NDArray[np.intp]) -> list[float | None]:
        return selective_accuracies_at(doubt[at], right[at], coverages=LEAST_DOUBTED)

    values = right_of_these(np.arange(n))
    intervals = bootstrap_intervals(right_of_these, n, entity=samples.entity, n_resamples=n_bootstrap, seed=seed) or [
        None
    ] * len(values)
    return [
        {"coverage": coverage, **figure(value, interval, at_least(coverage, n))}
        for coverage, value, interval in zip(LEAST_DOUBTED, values, intervals, strict=True)
    ]


def gain_points(samples: Samples, *, threshold: float, n_bootstrap: int = 2000, seed: int = 0) -> list[dict[str, Any]]:
    """The gain as a dial for coverage: a point for each, compared with the threshold as the dial.

    Args:
        samples: the questions; those that were asked at other gains count.
        threshold: declined where doubt reaches it; at gain 0, which is the base exactly, nothing is declined.
        n_bootstrap: draws of each interval.
        seed: of the draws, and of the lot among ties.

    Returns:
        By ascending gain ``gain``, ``auroc`` of its doubts, and what `Comparison.point` gives, in which the Doubter is
        the one at gain 1 with its threshold moved to the same coverage; empty without a sweep.
    """
    swept = Samples(tuple(sample for sample in samples if sample.gains))
    against = Comparison(samples=swept, n_bootstrap=n_bootstrap, seed=seed)
    columns: dict[float, list[AtGain]] = {}
    for sample in swept:
        shipped = AtGain(gain=1.0, doubt=sample.doubt, answer_correct=sample.answer_correct)
        for reply in (shipped, *sample.gains):
            columns.setdefault(reply.gain, []).append(reply)
    points = []
    for gain, replies in sorted(columns.items()):
        declined = np.array([gain != 0 and declines(reply.doubt, threshold) for reply in replies])
        doubts = np.array([reply.doubt for reply in replies])
        correct = np.array([reply.answer_correct for reply in replies])
        point = against.point(f"gain {gain:g}", declined, correct)
        points.append({"gain": gain, **point, "auroc": auroc(doubts, swept.base_correct)})
    return points


def selective_point(point: Mapping[str, Any]) -> tuple[float, float] | None:
    """Coverage and selective accuracy of a point; None where nothing is answered."""
    coverage, reached = point["coverage"]["value"], point["selective_accuracy"]["value"]
    return None if not coverage or reached is None else (coverage, reached)
