"""Threads in tests: start them, wait for them and get their results, without sleeps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

#: Longer than any step takes on a busy machine.
LIMIT_S = 60.0


class Job(threading.Thread):
    """A call in its own thread."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self._call = (call, args)
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Make the call and keep its result or exception."""
        call, args = self._call
        try:
            self._result = call(*args)
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        """Return the result of the call. Raise its exception, or an error if it does not end."""
        self.join(LIMIT_S)
        assert not self.is_alive(), "the thread hangs"
        if self._error is not None:
            raise self._error
        return self._result


def run_in_thread(call: Callable[..., Any], *args: Any) -> Job:
    """Start a call in another thread."""
    job = Job(call, *args)
    job.start()
    return job


def in_thread(call: Callable[..., Any], *args: Any) -> Any:
    """Make a call in another thread and wait for it."""
    return run_in_thread(call, *args).result()


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that another thread will meet."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition is not met"
        time.sleep(0.001)
