"""Tells flows of control apart: separate threads, and jobs that a pool runs in the same thread."""

from __future__ import annotations

import sys
import threading
import weakref
from contextvars import ContextVar
from types import FrameType

__all__ = ["Flow", "Mark", "in_event_loop"]


class Mark:
    """A mark that an open stream leaves in each context in which it is read."""

    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over = False


_marks: ContextVar[tuple[Mark, ...]] = ContextVar("metadeploy_streams", default=())


class Flow:
    """The flow of control that read a stream last.

    A pool runs unrelated jobs in one thread, so the thread alone does not identify the reader. Each job of
    concurrent.futures has its own work item, and so has each job of asyncio.to_thread and run_in_executor. Other pools
    (those of anyio and trio) run each job in a copy of its caller's context, which lacks the marks of other jobs.
    """

    def __init__(self, mark: Mark) -> None:
        """Record the current flow of control.

        Args:
            mark: the mark of the stream, the same object each time.
        """
        self._thread = threading.get_ident()
        self._mark = mark
        self._job = None if _in_main_thread() else _job()
        marks = _marks.get()
        if mark not in marks:
            _marks.set((*(other for other in marks if not other.over), mark))

    def is_here(self) -> bool:
        """Whether the caller runs in the same thread and the same job."""
        if self._thread != threading.get_ident():
            return False
        # if the loop's thread waits, all of its tasks stop, whichever context they run in
        if _in_main_thread() or in_event_loop():
            return True
        job = _job()
        if job is not None or self._job is not None:
            return job is not None and self._job is not None and job() is self._job()
        return self._mark in _marks.get()


def in_event_loop() -> bool:
    """Whether this thread runs an asyncio event loop, which a waiting call would block."""
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
    """Return the work item of concurrent.futures that this thread runs, or None."""
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
