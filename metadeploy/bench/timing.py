"""Measures times that can be compared: the kinds take turns, so that other load on the machine affects all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Tick", "interleave", "timed"]

Floats: TypeAlias = NDArray[np.float64]
#: Called with the name of the measurement, the number of finished rounds and the number of all rounds.
Tick: TypeAlias = Callable[[str, int, int], None]


def interleave(
    kinds: Mapping[str, Callable[[], float]], *, rounds: int, what: str = "", tick: Tick | None = None
) -> dict[str, Floats]:
    """Measure several kinds in turn. Every other round reverses their order, so that a steady drift cancels out.

    Args:
        kinds: by name, a function that returns one measurement.
        rounds: measurements of each kind.
        what: name of the measurement, for ``tick``.
        tick: called before the first round and after each round.

    Returns:
        The measurements of each kind, float64 [rounds].
    """
    measured: dict[str, list[float]] = {name: [] for name in kinds}
    for round_ in range(rounds):
        if tick is not None:
            tick(what, round_, rounds)
        for name in list(kinds) if round_ % 2 == 0 else reversed(list(kinds)):
            measured[name].append(kinds[name]())
    if tick is not None:
        tick(what, rounds, rounds)
    return {name: np.array(values) for name, values in measured.items()}


def timed(work: Callable[[], object]) -> float:
    """Run a function, and return the milliseconds that it takes."""
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)
