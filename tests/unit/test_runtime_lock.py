"""The lock of an instance: other threads wait, the same thread is told."""

from __future__ import annotations

import threading

import pytest

from metadeploy.errors import Error
from metadeploy.runtime.lock import InstanceLock


def test_the_same_thread_is_told() -> None:
    lock = InstanceLock()
    with lock, pytest.raises(Error, match="busy with a stream of the same thread: read it to its end, or close"):
        lock.acquire()
    with lock:  # and the failed attempt left nothing behind
        pass


def test_other_threads_wait() -> None:
    lock, order = InstanceLock(), []

    def other() -> None:
        with lock:
            order.append("other")

    thread = threading.Thread(target=other)
    with lock:
        thread.start()
        thread.join(timeout=0.2)
        assert thread.is_alive()
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "other"]


def test_an_error_inside_lets_the_next_one_in() -> None:
    lock = InstanceLock()
    with pytest.raises(ValueError), lock:
        raise ValueError
    with lock:
        pass


def test_another_thread_may_let_go() -> None:
    # a generator that holds the lock may be finalised anywhere
    lock = InstanceLock()
    lock.acquire()
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    with lock:
        pass
