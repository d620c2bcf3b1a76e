"""Shared code of evaluation and ladder: drawing questions, fingerprints, and the first fields of the results."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

__all__ = ["Stage", "draw_indices", "fingerprint", "quiet", "results_head"]

#: Called with the name of a stage, the number of finished steps and the number of all steps.
Stage: TypeAlias = Callable[[str, int, int], None]


def quiet(_name: str, _n_done: int, _total: int) -> None:
    """Ignore progress. This is a `Stage`."""


def draw_indices(count: int, limit: int | None, seed: int) -> list[int]:
    """Draw indices of questions at random. A smaller limit draws the first of the same indices.

    Args:
        count: number of questions.
        limit: maximum number of indices; None for all.
        seed: seed of the draw.
    """
    indices: list[int] = np.random.default_rng(seed).permutation(count)[:limit].tolist()
    return indices


def fingerprint(inputs: Mapping[str, Any], *more: object) -> str:
    """Return a short hash of everything that answers depend on: ``inputs`` as JSON, and the ``repr`` of the others."""
    text = json.dumps(inputs, sort_keys=True, ensure_ascii=False) + "".join(map(repr, more))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def results_head(schema: int) -> dict[str, Any]:
    """Return the first fields of a results file: the version of its layout, and the time."""
    return {"schema": schema, "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
