"""Times that can be compared: the kinds take turns, so that whatever else the machine does hits all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Tick", "interleave", "timed"]

Floats: TypeAlias = NDArray[np.float64]
#: Called with what is being measured, rounds done and rounds in all.
Tick: TypeAlias = Callable[[str, int, int], None]


def interleave(
    kinds: Mapping[str, Callable[[], float]], *, rounds: int, what: str = "", tick: Tick | None = None
) -> dict[str, Floats]:
    """Measure several kinds by turns, the order reversed every other round, so that a steady drift cancels out.

    Args:
        kinds: by name, what makes one measurement.
        rounds: measurements of each.
        what: is measured, for ``tick``.
        tick: told before the first round and after each.

    Returns:
        By name the measurements, float64 [rounds].
    """
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for round_ in range(rounds):
        if tick is not None:
            tick(what, round_, rounds)
        for name in list(kinds) if round_ % 2 == 0 else reversed(list(kinds)):
            found[name].append(kinds[name]())
    if tick is not None:
        tick(what, rounds, rounds)
    return {name: np.array(values) for name, values in found.items()}


def timed(work: Callable[[], object]) -> float:
    """Milliseconds that it takes."""
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)
