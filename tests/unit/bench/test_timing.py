"""Alternating measurements, and their unit."""

from __future__ import annotations

import time

from metadeploy.bench.timing import interleave, timed


def test_kinds_take_turns_and_the_order_is_reversed() -> None:
    order: list[str] = []
    progress: list[tuple[str, int, int]] = []

    def kind(name: str, value: float) -> float:
        order.append(name)
        return value

    kinds = {"a": lambda: kind("a", 1.0), "b": lambda: kind("b", 2.0)}
    times = interleave(kinds, rounds=3, what="both", tick=lambda *so_far: progress.append(so_far))
    assert "".join(order) == "abbaab"
    assert progress == [("both", done, 3) for done in range(4)]
    assert {name: values.tolist() for name, values in times.items()} == {"a": [1.0] * 3, "b": [2.0] * 3}


def test_a_steady_drift_cancels_out() -> None:
    clock = iter(range(100))
    times = interleave({"a": lambda: float(next(clock)), "b": lambda: float(next(clock))}, rounds=4)
    assert times["a"].sum() == times["b"].sum()


def test_timed_is_in_milliseconds() -> None:
    assert 10 <= timed(lambda: time.sleep(0.01)) < 1000
