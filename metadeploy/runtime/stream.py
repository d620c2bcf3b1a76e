"""Streams: iterators that compute step by step and can be read in any thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from metadeploy.errors import Cancelled, Error
from metadeploy.runtime.lock import Call, InstanceLock, Turn
from metadeploy.runtime.types import CancelCallback

__all__ = ["Stream"]

_T = TypeVar("_T")
_U = TypeVar("_U")


class _Stop:
    """The `cancel` callback of a stream, which can also end it early.

    It is a separate object because the computation must not hold a reference to the stream. So a stream ends as soon as
    it is dropped, without the garbage collector.
    """

    def __init__(self, cancel: CancelCallback | None) -> None:
        self.requested = False
        self._cancel = cancel

    def __call__(self) -> bool:
        """Return whether the stream should end now."""
        return self.requested or (self._cancel is not None and self._cancel())


class _Steps(Call):
    """The computation of a stream, and its items that have been computed but not read."""

    def __init__(self, steps: Generator[Any], stop: _Stop, *, ahead: bool) -> None:
        super().__init__()
        self.over = False
        self.stop = stop
        self.is_one_call = False
        self.keep: Callable[[Any], bool] | None = None
        self._steps = steps
        self._ahead = ahead
        self._computed: deque[Any] = deque()
        self._error: BaseException | None = None

    def transform(self, transform: Callable[[Iterator[Any]], Generator[Any]]) -> None:
        self._steps, self.keep = transform(self._steps), None

    @property
    def exhausted(self) -> bool:
        return self.stop.requested or (self.over and not self._computed)

    @property
    def settled(self) -> bool:
        return bool(self._computed) or self.over or self.stop.requested

    @property
    def can_be_computed_ahead(self) -> bool:
        return self._ahead

    def compute(self) -> None:
        try:
            self._computed.append(next(self._steps))
        except StopIteration:
            self.over = True
        except Exception as error:
            self.over = True
            if not (isinstance(error, Cancelled) and self.stop.requested):
                self._error = error  # raised in the reader, which may be another thread
        except BaseException as error:
            self.over = True
            self._error = Error(f"this stream was ended by {type(error).__name__} in the thread that computed it")
            raise
        if self.stop.requested:
            self.finish()

    def finish(self) -> None:
        self.over = True
        self._error = None
        self._computed.clear()
        self._steps.close()

    def take(self) -> list[Any]:
        """Return the next item in a list, or an empty list. Raise the error that ended the stream, once."""
        while self._computed and not self.stop.requested:
            try:
                item = self._computed.popleft()
            except IndexError:  # another thread was quicker
                break
            if self.keep is None or self.keep(item):
                return [item]
        if self.over:
            error, self._error = self._error, None
            if error is not None:
                raise error
        return []


class Stream(Iterator[_T], Generic[_T]):
    """An iterator that computes when it is read, and may be read, closed and dropped in any thread.

    It holds its model until it is exhausted, closed or dropped. Threads that read it at the same time wait for each
    other, and each item goes to one of them. If another call has to wait for the model, that call computes the rest of
    the stream in its own thread. The reader then gets the items from memory.
    """

    def __init__(
        self,
        lock: InstanceLock,
        make: Callable[[CancelCallback], Generator[_T]],
        *,
        cancel: CancelCallback | None = None,
        ahead: bool = True,
    ) -> None:
        """Create the stream; computation begins with the first read.

        Args:
            lock: the lock of the instance.
            make: creates the generator of steps; it takes the `cancel` callback of the computation.
            cancel: the caller's `cancel` callback.
            ahead: whether another thread may compute the rest of the stream.
        """
        self._lock = lock
        stop = _Stop(cancel)
        self._steps = _Steps(make(stop), stop, ahead=ahead)
        lock.keep(self)

    def through(self, transform: Callable[[Iterator[_T]], Generator[_U]]) -> Stream[_U]:
        """Transform the items and return this stream. Call it before the stream is read."""
        self._steps.transform(transform)
        return cast("Stream[_U]", self)

    def filtered(self, keep: Callable[[_T], bool]) -> Stream[_T]:
        """Skip items for which ``keep`` is False when they are read, and return this stream."""
        self._steps.keep = keep
        return self

    def as_one_call(self) -> Stream[_T]:
        """Return this stream as one call: closing the model waits for it instead of ending it."""
        self._steps.is_one_call = True
        return self

    @property
    def is_one_call(self) -> bool:
        """Whether closing the model waits for the end of this stream."""
        return self._steps.is_one_call

    def __iter__(self) -> Stream[_T]:
        return self

    def __next__(self) -> _T:
        """Return the next item as soon as it is computed.

        Raises:
            Error: the model is busy with another stream of this thread, so the thread would wait for itself.
        """
        steps = self._steps
        while True:
            turn = Turn()
            try:
                if self._lock.begin(steps, turn):
                    steps.compute()
            finally:
                self._lock.pause(steps, turn)
            for item in steps.take():
                return cast(_T, item)
            if steps.exhausted:
                raise StopIteration

    def close(self) -> None:
        """End the stream. If another thread computes it, cancel that computation and wait for it."""
        self._end(wait=True)

    def __enter__(self) -> Stream[_T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_steps"):
            self._end(wait=False)

    def _end(self, *, wait: bool) -> None:
        self._steps.stop.requested = True
        if self._lock.is_lost:
            return
        turn = Turn()
        try:
            if self._lock.seize(self._steps, turn, wait=wait):
                self._steps.finish()
        finally:
            self._lock.pause(self._steps, turn)


def through(items: Iterator[_T], transform: Callable[[Iterator[_T]], Generator[_U]]) -> Iterator[_U]:
    """Transform the items. If `items` is a stream, return that stream."""
    return items.through(transform) if isinstance(items, Stream) else transform(items)


def last(items: Iterator[_T]) -> _T:
    """Read to the end and return the last item. A stream is read as one call."""
    newest: list[_T] = []
    for item in items.as_one_call() if isinstance(items, Stream) else items:
        newest = [item]
    return newest[0]
