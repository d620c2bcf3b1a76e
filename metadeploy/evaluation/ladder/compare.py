"""A rung against PyTorch in F32, in figures that are ready for JSON."""

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
    """What base and Doubter come to at the shipped threshold, by themselves.

    Args:
        samples: one for each question, at least one.

    Returns:
        ``metrics``: every share of `metadeploy.metrics.shares` as ``{"value", "low", "high", "n"}`` with
        Wilson's 95 % interval, None where undefined; ``auroc`` of doubt for the base's errors, None where it has all or
        none right.
    """
    base_correct, answered = column(samples, "base_correct"), ~column(samples, "declined")
    same_words = np.array([(sample.answer or "").strip() == sample.base_answer.strip() for sample in samples])
    found = shares(base_correct, answered, column(samples, "answer_correct"), same_words)
    return {
        "metrics": {name: _share(share) for name, share in found.items()},
        "auroc": auroc(column(samples, "doubt"), base_correct),
    }


def against_reference(samples: Sequence[LadderSample], reference: Sequence[LadderSample]) -> dict[str, Any]:
    """How near a rung comes to PyTorch.

    Args:
        samples: of the rung, one for each question, at least one.
        reference: PyTorch's, for the same questions in the same order.

    Returns:
        * ``activations``, ``cognitive_tokens``: cosines with PyTorch's, ``{"mean", "least"}`` over questions and layers
          (or tokens).
        * ``decisions``: ``agree``, the share of questions that are both answered or both declined, with Wilson's 95 %
          interval; of the others ``declines_instead`` and ``answers_instead``, each a number of questions.
        * ``doubt_difference``: absolute, ``{"mean", "greatest"}`` over questions.
        * ``speed``: tokens a second, ``base`` alone and with the ``doubter``, each ``prompt`` and ``decode`` as
          ``{"median", "low", "high", "n"}``: median and quartiles over questions.

    Raises:
        ValueError: the questions are not the same.
    """
    if not np.array_equal(column(samples, "index"), column(reference, "index")):
        raise ValueError("samples: are of other questions than the reference's, expected the same in the same order")
    declined, theirs = column(samples, "declined"), column(reference, "declined")
    difference = np.abs(column(samples, "doubt") - column(reference, "doubt"))
    return {
        "activations": _cosines([sample.activations for sample in samples]),
        "cognitive_tokens": _cosines([sample.cognitive_tokens for sample in samples]),
        "decisions": {
            "agree": _share(Share(int((declined == theirs).sum()), len(samples))),
            "declines_instead": int((declined & ~theirs).sum()),
            "answers_instead": int((~declined & theirs).sum()),
        },
        "doubt_difference": {"mean": float(difference.mean()), "greatest": float(difference.max())},
        "speed": {
            "base": _speed([sample.base_rates for sample in samples]),
            "doubter": _speed([sample.rates for sample in samples]),
        },
    }


def _share(share: Share) -> dict[str, Any]:
    return figure(share.value, share.interval, share.total)


def _cosines(found: Sequence[Cosine | None]) -> dict[str, float]:
    given = [cosine for cosine in found if cosine is not None]
    return {
        "mean": float(np.mean([cosine.mean for cosine in given])),
        "least": min(cosine.least for cosine in given),
    }


def _speed(found: Sequence[Rates | None]) -> dict[str, Any]:
    given = [rates for rates in found if rates is not None]
    return {
        "prompt": _spread(np.array([rates.prompt for rates in given])),
        "decode": _spread(np.array([rates.decode for rates in given if rates.decode is not None])),
    }


def _spread(values: NDArray[np.float64]) -> dict[str, Any]:
    """Median and quartiles; None of nothing."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist() if len(values) else (None, None, None)
    return {"median": median, "low": low, "high": high, "n": len(values)}
