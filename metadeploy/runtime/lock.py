"""A lock that lets one call at a time use an instance, whichever threads run its calls and read its streams."""

from __future__ import annotations

import sys
import threading
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from metadeploy import _core
from metadeploy.errors import Error
from metadeploy.runtime.flow import Flow, Mark, in_event_loop

if TYPE_CHECKING:
    from metadeploy.runtime.stream import Stream

__all__ = ["Call", "InstanceLock", "Turn"]

#: A waiting thread checks again after this many seconds. A thread that releases the instance wakes it up at once, but
#: the garbage collector may end a stream in this very thread, between the last check and the wait.
_RECHECK_S: Final = 1.0


class Turn:
    """A thread's turn with a call."""

    __slots__ = ("thread",)

    def __init__(self) -> None:
        self.thread = threading.get_ident()


class Call:
    """One use of an instance, from its beginning to its end, in one thread or handed from thread to thread.

    Attributes:
        turn: the turn of the thread that computes for it now; None if no thread does, as for a stream between two
            chunks.
        flow: the flow of control that read it last.
        over: whether the call ends with the current turn.
    """

    def __init__(self) -> None:
        self.turn: Turn | None = None
        self.flow: Flow | None = None
        self.mark = Mark()
        self.over = True

    @property
    def settled(self) -> bool:
        """Whether a thread that waits for its turn with this call can stop waiting."""
        return False

    @property
    def can_be_computed_ahead(self) -> bool:
        """Whether a thread that waits for the instance may compute it to its end."""
        return False

    def compute(self) -> None:
        """Compute one step; called only if `can_be_computed_ahead`."""
        raise AssertionError("only a stream can be computed ahead")


class InstanceLock:
    """Lets one call at a time use an instance; the others wait, in the order in which they came.

    A call is not tied to a thread. An open stream holds the instance between two chunks, when no thread computes. A
    call that has to wait then computes that stream to its end and keeps the items for its reader. If it only waited,
    the reader might never run: all threads of a pool could wait here. If the stream cannot be computed ahead, the call
    waits until its reader has read it to its end.

    If only the waiting thread itself could end the wait, that is an error.
    """

    def __init__(self) -> None:
        # a Condition has a reentrant lock; that is needed because the garbage collector may end a stream at any line
        self._monitor = threading.Condition()
        self._holder: Call | None = None
        self._queue: deque[Turn] = deque()
        self._streams: WeakSet[Stream[Any]] = WeakSet()
        self._generation = _core.process_generation()

    @property
    def is_forked(self) -> bool:
        """Whether this process was forked from the one that the instance was loaded in."""
        return _core.process_generation() != self._generation

    @property
    def is_lost(self) -> bool:
        """Whether waiting is impossible, because threads that no longer exist may hold the lock or the instance."""
        return self.is_forked or sys.is_finalizing()

    # --- streams -----------------------------------------------------------------------------------------------------

    def keep(self, stream: Stream[Any]) -> None:
        """Remember a stream until it is dropped, so that closing the instance can end it."""
        with self._monitor:
            self._streams.add(stream)

    def open_streams(self) -> list[Stream[Any]]:
        """Return the streams that have not been dropped yet."""
        with self._monitor:
            return list(self._streams)

    # --- turns -------------------------------------------------------------------------------------------------------

    def begin(self, call: Call, turn: Turn) -> bool:
        """Wait until the instance is free for this call. Always call :meth:`pause` afterward.

        Args:
            call: the call that uses the instance.
            turn: a new turn of this thread.

        Returns:
            True if the call has its turn and should compute; False if it is settled and got no turn.

        Raises:
            Error: this thread would wait for itself, the process was forked, or Python is shutting down.
        """
        if self.is_lost:
            raise Error(_core.FORKED if self.is_forked else "Python is shutting down")
        while (other := self._await(call, turn)) is not None:
            ahead = Turn()
            try:
                if self._seize_idle(other, ahead):
                    other.compute()
            finally:
                self.pause(other, ahead)
        return call.turn is turn

    def pause(self, call: Call, turn: Turn) -> None:
        """End a turn, and also the call if it is over. Do nothing if the turn never began."""
        if self.is_lost:
            return
        with self._monitor:
            if turn in self._queue:
                self._queue.remove(turn)
            if call.turn is turn:
                call.turn = None
                if call.over:
                    call.mark.over = True
                    if self._holder is call:
                        self._holder = None
            self._monitor.notify_all()

    def seize(self, call: Call, turn: Turn, *, wait: bool) -> bool:
        """Take a turn in order to end a call, whether or not the call holds the instance.

        Args:
            call: the call to end.
            turn: a new turn of this thread.
            wait: whether to wait for the thread that computes.

        Returns:
            False if a thread (perhaps this one) still computes; the call then ends with that turn.
        """
        with self._monitor:
            while call.turn is not None:
                if not wait or call.turn.thread == turn.thread or _core.exit_has_begun():
                    return False
                self._monitor.wait(_RECHECK_S)
            call.turn = turn
            return True

    def _seize_idle(self, call: Call, turn: Turn) -> bool:
        with self._monitor:
            if call.turn is not None or self._holder is not call:
                return False
            call.turn = turn
            return True

    def _await(self, call: Call, turn: Turn) -> Call | None:
        """Wait for the turn. Return a stream to compute ahead before waiting again, or None if the wait is over."""
        with self._monitor:
            if self._holder is not call and turn not in self._queue:
                self._queue.append(turn)
            while not call.settled:
                holder = self._holder
                # calls of one thread can be nested, as in a signal handler: only the innermost one can continue
                is_first = bool(self._queue) and self._queue[0].thread == turn.thread
                if (holder is None and is_first) or (holder is call and call.turn is None):
                    if turn in self._queue:
                        self._queue.remove(turn)
                    self._holder = call
                    call.turn = turn
                    if not call.over:
                        call.flow = Flow(call.mark)
                    return None
                if holder is not None:
                    _refuse_to_wait(holder, turn)
                    if is_first and holder.turn is None and holder is not call and holder.can_be_computed_ahead:
                        return holder
                self._monitor.wait(_RECHECK_S)
            return None

    # --- calls that are over when they return ------------------------------------------------------------------------

    def __enter__(self) -> None:
        call, turn = Call(), Turn()
        try:
            self.begin(call, turn)
        except BaseException:
            self.pause(call, turn)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        call = self._holder
        assert call is not None
        assert call.turn is not None
        self.pause(call, call.turn)


def _refuse_to_wait(holder: Call, turn: Turn) -> None:
    """Raise Error if the holder can never finish while this thread waits for it."""
    if holder.turn is not None:
        if holder.turn.thread == turn.thread:
            raise Error(
                "this model is busy with a call of the same thread: its callbacks, its iterator of prompts and signal "
                "handlers cannot use the model meanwhile"
            )
        if _core.exit_has_begun():
            raise Error("this model is busy in a thread that ends with Python, which is shutting down")
    elif holder.flow is not None and holder.flow.is_here():
        raise Error("this model is busy with a stream of the same thread: read it to its end, or close() it first")
    elif not holder.can_be_computed_ahead and in_event_loop():
        raise Error(
            "this model is busy with a stream, and waiting for it would stop this thread's event loop: read it to its "
            "end, close() it, or call from another thread (asyncio.to_thread)"
        )
