"""What an evaluation and a ladder have in common: drawing questions, fingerprints and the head of the results."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

__all__ = ["Stage", "draw_places", "fingerprint", "quiet", "results_head"]

#: Gets a stage's name, how much of it is done, and of how much.
Stage: TypeAlias = Callable[[str, int, int], None]


def quiet(_name: str, _done: int, _total: int) -> None:
    """Ignore progress: a `Stage`."""


def draw_places(count: int, limit: int | None, seed: int) -> list[int]:
    """Draw places of questions at random; a smaller limit draws the first of the same.

    Args:
        count: number of questions.
        limit: most places; None for all.
        seed: of the draw.
    """
    places: list[int] = np.random.default_rng(seed).permutation(count)[:limit].tolist()
    return places


def fingerprint(asked: Mapping[str, Any], *more: object) -> str:
    """Return a short hash of everything that answers depend on; JSON of ``asked``, and the ``repr`` of the others."""
    text = json.dumps(asked, sort_keys=True, ensure_ascii=False) + "".join(map(repr, more))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def results_head(schema: int) -> dict[str, Any]:
    """Return the first fields of a results file: the version of its layout, and the time."""
    return {"schema": schema, "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
