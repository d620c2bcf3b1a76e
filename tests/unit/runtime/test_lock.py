"""The lock of an instance: calls in other threads wait; a call that would wait for itself is an error."""

from __future__ import annotations

import threading

import pytest

from metadeploy.errors import Error
from metadeploy.runtime.lock import Call, InstanceLock, Turn
from support.threads import run_in_thread, until


def test_a_call_inside_a_call_of_the_same_thread() -> None:
    lock = InstanceLock()
    with lock, pytest.raises(Error, match="busy with a call of the same thread"), lock:
        pass
    with lock:  # and the failed attempt left nothing behind
        pass


def test_other_threads_wait_in_the_order_in_which_they_came() -> None:
    lock, order = InstanceLock(), []

    def other(name: int) -> None:
        with lock:
            order.append(name)

    with lock:
        threads = []
        for name in range(5):
            threads.append(run_in_thread(other, name))
            until(lambda name=name: len(lock._queue) == name + 1)  # type: ignore[misc]
        assert order == []
    for thread in threads:
        thread.join(timeout=10)
    assert order == [0, 1, 2, 3, 4]


def test_an_error_inside_lets_the_next_one_in() -> None:
    lock = InstanceLock()
    with pytest.raises(ValueError), lock:
        raise ValueError
    with lock:
        pass


def test_a_thread_that_is_interrupted_while_it_waits_leaves_the_queue() -> None:
    lock = InstanceLock()
    with lock:
        call, turn = Call(), Turn()
        turn.thread = -1  # as in another thread
        lock._queue.append(turn)
        lock.pause(call, turn)
        assert not lock._queue
    with lock:
        pass


def test_no_thread_starves_beside_one_that_keeps_calling() -> None:
    lock, finished = InstanceLock(), threading.Event()

    def often() -> None:
        while not finished.is_set():
            with lock:
                pass

    thread = run_in_thread(often)
    for _ in range(200):
        with lock:
            pass
    finished.set()
    thread.join(timeout=10)
    assert not thread.is_alive()
