"""Compares a rung with PyTorch in F32. The figures are ready for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metadeploy.evaluation.ladder.samples import Cosine, LadderSample, Rates, column
from metadeploy.metrics import auroc, shares
from metadeploy.proportion import Share, figure

__all__ = ["against_reference", "outcome"]


def outcome(samples: Sequence[LadderSample]) -> dict[str, Any]:
    """Compute the metrics of base and Doubter at the default threshold.

    Args:
        samples: one sample for each question, at least one.

    Returns:
        ``metrics``: every proportion of `metadeploy.metrics.shares` as ``{"value", "low", "high", "n"}`` with Wilson's
        95 % interval, None if undefined; ``auroc`` of doubt for the base's errors, None if the base is right on all
        questions or on none.
    """
    base_correct, answered = column(samples, "base_correct"), ~column(samples, "declined")
    same_words = np.array([(sample.answer or "").strip() == sample.base_answer.strip() for sample in samples])
    proportions = shares(base_correct, answered, column(samples, "answer_correct"), same_words)
    return {
        "metrics": {name: _share(share) for name, share in proportions.items()},
        "auroc": auroc(column(samples, "doubt"), base_correct),
    }


def against_reference(samples: Sequence[LadderSample], reference: Sequence[LadderSample]) -> dict[str, Any]:
    """Compare a rung with PyTorch.

    Args:
        samples: samples of the rung, one for each question, at least one.
        reference: PyTorch's samples for the same questions in the same order.

    Returns:
        * ``activations``, ``cognitive_tokens``: cosines with PyTorch's vectors, ``{"mean", "least"}`` over questions
          and layers (or tokens).
        * ``decisions``: ``agree``, the proportion of questions that both answer or both decline, with Wilson's 95 %
          interval; for the other questions, the numbers ``declines_instead`` and ``answers_instead``.
        * ``doubt_difference``: the absolute difference, ``{"mean", "greatest"}`` over questions.
        * ``speed``: tokens per second of the ``base`` alone and with the ``doubter``, each ``prompt`` and ``decode`` as
          ``{"median", "low", "high", "n"}``: median and quartiles over questions.

    Raises:
        ValueError: the questions are not the same.
    """
    if not np.array_equal(column(samples, "index"), column(reference, "index")):
        raise ValueError("samples: have other questions than the reference, expected the same in the same order")
    declined, reference_declined = column(samples, "declined"), column(reference, "declined")
    difference = np.abs(column(samples, "doubt") - column(reference, "doubt"))
    return {
        "activations": _cosines([sample.activations for sample in samples]),
        "cognitive_tokens": _cosines([sample.cognitive_tokens for sample in samples]),
        "decisions": {
            "agree": _share(Share(int((declined == reference_declined).sum()), len(samples))),
            "declines_instead": int((declined & ~reference_declined).sum()),
            "answers_instead": int((~declined & reference_declined).sum()),
        },
        "doubt_difference": {"mean": float(difference.mean()), "greatest": float(difference.max())},
        "speed": {
            "base": _speed([sample.base_rates for sample in samples]),
            "doubter": _speed([sample.rates for sample in samples]),
        },
    }


def _share(share: Share) -> dict[str, Any]:
    return figure(share.value, share.interval, share.total)


def _cosines(cosines: Sequence[Cosine | None]) -> dict[str, float]:
    known = [cosine for cosine in cosines if cosine is not None]
    return {
        "mean": float(np.mean([cosine.mean for cosine in known])),
        "least": min(cosine.least for cosine in known),
    }


def _speed(rates: Sequence[Rates | None]) -> dict[str, Any]:
    known = [rate for rate in rates if rate is not None]
    return {
        "prompt": _spread(np.array([rate.prompt for rate in known])),
        "decode": _spread(np.array([rate.decode for rate in known if rate.decode is not None])),
    }


def _spread(values: NDArray[np.float64]) -> dict[str, Any]:
    """Compute median and quartiles; None if there are no values."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist() if len(values) else (None, None, None)
    return {"median": median, "low": low, "high": high, "n": len(values)}
