"""One call at a time on one instance."""

from __future__ import annotations

import threading
from types import TracebackType

from metadeploy.errors import Error

__all__ = ["InstanceLock"]


class InstanceLock:
    """A lock that other threads wait for, and that tells the thread which holds it instead of stopping it for ever.

    An open stream holds its instance until it is exhausted or closed; a second call from the same thread could only
    wait for itself.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    def acquire(self) -> None:
        """Wait for the instance.

        Raises:
            Error: this very thread holds it.
        """
        if self._owner == threading.get_ident():
            raise Error("this model is busy with a stream of the same thread: read it to its end, or close() it first")
        self._lock.acquire()
        self._owner = threading.get_ident()

    def release(self) -> None:
        """Let the next one in."""
        self._owner = None
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
