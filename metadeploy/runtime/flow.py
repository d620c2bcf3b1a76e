"""Which flow of control something runs in: a thread of its own, or one job of a pool of threads."""

from __future__ import annotations

import sys
import threading
import weakref
from contextvars import ContextVar
from types import FrameType

__all__ = ["Flow", "Mark", "in_event_loop"]


class Mark:
    """Left in the contexts that a stream is read in, for as long as it is open."""

    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over = False


_marks: ContextVar[tuple[Mark, ...]] = ContextVar("metadeploy_streams", default=())


class Flow:
    """Where a stream was read last.

    A pool gives unrelated jobs to one thread, so the thread alone does not tell who reads. Jobs of concurrent.futures,
    and with them those of asyncio.to_thread and run_in_executor, have a work item each. Other pools (those of anyio and
    trio) run each job in a copy of its caller's context, where a mark of another job is not seen.
    """

    def __init__(self, mark: Mark) -> None:
        """Take note of this place.

        Args:
            mark: of the stream, the same each time.
        """
        self._thread = threading.get_ident()
        self._mark = mark
        self._job = None if _in_main_thread() else _job()
        marks = _marks.get()
        if mark not in marks:
            _marks.set((*(each for each in marks if not each.over), mark))

    def is_here(self) -> bool:
        """Whether the caller is the same thread, and still at the same job."""
        if self._thread != threading.get_ident():
            return False
        # a loop that waits stops all of its tasks, whatever context they have
        if _in_main_thread() or in_event_loop():
            return True
        job = _job()
        if job is not None or self._job is not None:
            return job is not None and self._job is not None and job() is self._job()
        return self._mark in _marks.get()


def in_event_loop() -> bool:
    """Whether this thread runs an event loop of asyncio, which a call that waits would stop."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _in_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


def _job() -> weakref.ref[object] | None:
    """The work item of concurrent.futures that this thread is at."""
    module = sys.modules.get("concurrent.futures.thread")
    item = getattr(module, "_WorkItem", None)
    if item is None:
        return None
    code = item.run.__code__
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is code:
            return weakref.ref(frame.f_locals["self"])
        frame = frame.f_back
    return None
