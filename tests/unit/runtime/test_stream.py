"""Streams are read, closed and dropped in any thread, and calls wait for them."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from metadeploy.errors import Cancelled, Error
from metadeploy.runtime.lock import InstanceLock
from metadeploy.runtime.stream import Stream
from metadeploy.runtime.types import CancelCallback
from support.threads import LIMIT_S, in_thread, run_in_thread, until

SAME_THREAD = "busy with a stream of the same thread: read it to its end, or close"


@pytest.fixture
def lock() -> InstanceLock:
    return InstanceLock()


def counting(lock: InstanceLock, n: int = 5, *, ahead: bool = True) -> Stream[int]:
    return Stream(lock, lambda _: (i for i in range(n)), ahead=ahead)


def use(lock: InstanceLock) -> str:
    with lock:
        return "done"


def is_free(lock: InstanceLock) -> bool:
    return lock._holder is None


# --- one stream ------------------------------------------------------------------------------------------------------


def test_it_holds_the_instance_from_its_first_item_to_its_end(lock: InstanceLock) -> None:
    stream = counting(lock)
    assert use(lock) == "done"
    assert next(stream) == 0
    with pytest.raises(Error, match=SAME_THREAD):
        use(lock)
    assert list(stream) == [1, 2, 3, 4]
    assert list(stream) == []
    assert use(lock) == "done"


def test_each_item_in_another_thread(lock: InstanceLock) -> None:
    stream = counting(lock)
    assert [in_thread(next, stream) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(StopIteration):
        next(stream)
    assert is_free(lock)


def test_threads_that_read_at_once_share_the_items(lock: InstanceLock) -> None:
    stream = counting(lock, 2000)
    jobs = [run_in_thread(list, stream) for _ in range(8)]
    assert sorted(item for job in jobs for item in job.result()) == list(range(2000))
    assert is_free(lock)


def test_an_error_ends_it(lock: InstanceLock) -> None:
    def fails(_: CancelCallback) -> Generator[int]:
        yield 0
        raise LookupError("from the steps")

    stream = Stream(lock, fails)
    assert next(stream) == 0
    with pytest.raises(LookupError, match="from the steps"):
        next(stream)
    assert list(stream) == []
    assert is_free(lock)


def test_a_stream_through_others_is_one_stream(lock: InstanceLock) -> None:
    ended: list[str] = []

    def steps(_: CancelCallback) -> Generator[int]:
        try:
            yield from range(5)
        finally:
            ended.append("steps")

    def doubled(items: Iterator[int]) -> Generator[str]:
        try:
            for item in items:
                yield 2 * str(item)
        finally:
            ended.append("doubled")

    stream = Stream(lock, steps).through(doubled)
    assert in_thread(next, stream) == "00"
    in_thread(stream.close)
    assert ended == ["doubled", "steps"]
    assert list(stream) == []
    assert is_free(lock)


def test_with_ends_it(lock: InstanceLock) -> None:
    with pytest.raises(KeyError), counting(lock) as stream:
        next(stream)
        raise KeyError
    assert is_free(lock)


def test_dropped_items_are_left_out_even_if_computed(lock: InstanceLock) -> None:
    unwanted: set[int] = set()
    stream = counting(lock).filtered(lambda item: item not in unwanted)
    assert next(stream) == 0
    in_thread(use, lock)
    unwanted |= {1, 3, 4}
    assert list(stream) == [2]


# --- its end, anywhere -----------------------------------------------------------------------------------------------


def test_dropped(lock: InstanceLock) -> None:
    stream = counting(lock)
    next(stream)
    del stream  # reference counting is enough
    assert is_free(lock)


def test_dropped_in_another_thread(lock: InstanceLock) -> None:
    streams = [counting(lock)]
    next(streams[0])
    in_thread(streams.clear)
    assert is_free(lock)


def test_collected_by_a_thread_that_waits_for_it(lock: InstanceLock) -> None:
    """The garbage collector may end a stream at any line of a thread, even inside the lock's code."""

    class Cycle:
        pass

    def abandon() -> None:
        cycle: Any = Cycle()
        cycle.stream, cycle.itself = counting(lock, ahead=False), cycle
        next(cycle.stream)

    in_thread(abandon)
    waiting = run_in_thread(use, lock)
    until(lambda: len(lock._queue) == 1)
    gc.collect()
    assert waiting.result() == "done"


class Endless:
    """Steps, one of which computes until it is canceled."""

    def __init__(self, lock: InstanceLock) -> None:
        self.computing = threading.Event()
        self.stream = Stream(lock, self._steps)

    def _steps(self, cancel: CancelCallback) -> Generator[int]:
        yield 0
        self.computing.set()
        until(cancel)
        raise Cancelled("cancelled")


def test_closed_while_it_computes_in_another_thread(lock: InstanceLock) -> None:
    endless = Endless(lock)
    reader = run_in_thread(list, endless.stream)
    assert endless.computing.wait(LIMIT_S)
    endless.stream.close()
    assert is_free(lock)  # not later
    assert reader.result() in ([], [0])
    assert list(endless.stream) == []


def test_dropped_while_another_thread_computes_it(lock: InstanceLock) -> None:
    endless = Endless(lock)
    next(endless.stream)
    waiting = run_in_thread(use, lock)
    assert endless.computing.wait(LIMIT_S)
    endless.stream = counting(lock)
    assert waiting.result() == "done"


def test_closed_from_its_own_step(lock: InstanceLock) -> None:
    streams: list[Stream[int]] = []

    def steps(cancel: CancelCallback) -> Generator[int]:
        yield 0
        streams[0].close()  # as a signal handler may
        assert cancel()
        raise Cancelled("cancelled")

    streams.append(Stream(lock, steps))
    assert list(streams[0]) == [0]
    assert is_free(lock)


def test_read_from_its_own_step(lock: InstanceLock) -> None:
    streams: list[Stream[int]] = []

    def steps(_: CancelCallback) -> Generator[int]:
        yield next(streams[0])

    streams.append(Stream(lock, steps))
    with pytest.raises(Error, match="busy with a call of the same thread"):
        next(streams[0])
    assert is_free(lock)


def test_closed_while_it_waits_for_its_first_turn(lock: InstanceLock) -> None:
    stream = counting(lock)
    with lock:
        reader = run_in_thread(list, stream)
        until(lambda: len(lock._queue) == 1)
        stream.close()
        assert reader.result() == []
    assert is_free(lock)


# --- calls that have to wait -----------------------------------------------------------------------------------------


def test_a_call_computes_the_rest_of_a_stream(lock: InstanceLock) -> None:
    """The reader may be waiting for the calling thread, or it may never read again."""
    stream = counting(lock)
    assert next(stream) == 0
    assert in_thread(use, lock) == "done"
    assert use(lock) == "done"  # the stream has ended and no longer needs the instance
    assert list(stream) == [1, 2, 3, 4]


def test_errors_of_computing_ahead_reach_the_reader(lock: InstanceLock) -> None:
    def fails(_: CancelCallback) -> Generator[int]:
        yield 0
        yield 1
        raise LookupError("from the steps")

    stream = Stream(lock, fails)
    assert next(stream) == 0
    assert in_thread(use, lock) == "done"
    assert next(stream) == 1
    with pytest.raises(LookupError):
        next(stream)
    assert list(stream) == []


def test_ctrl_c_in_a_thread_that_computes_ahead_is_its_own(lock: InstanceLock) -> None:
    def interrupted(_: CancelCallback) -> Generator[int]:
        yield 0
        raise KeyboardInterrupt

    stream = Stream(lock, interrupted)
    assert next(stream) == 0
    with pytest.raises(KeyboardInterrupt):
        in_thread(use, lock)
    with pytest.raises(Error, match="ended by KeyboardInterrupt in the thread that computed it"):
        next(stream)
    assert is_free(lock)


def test_a_call_waits_if_it_must_not_compute(lock: InstanceLock) -> None:
    stream = counting(lock, ahead=False)
    assert next(stream) == 0
    waiting = run_in_thread(use, lock)
    until(lambda: len(lock._queue) == 1)
    assert list(stream) == [1, 2, 3, 4]
    assert waiting.result() == "done"


def test_a_reader_that_calls_would_wait_for_itself(lock: InstanceLock) -> None:
    stream = counting(lock)
    assert in_thread(next, stream) == 0
    for _ in stream:
        with pytest.raises(Error, match=SAME_THREAD):
            use(lock)
        break
    stream.close()


def test_a_thread_that_reads_and_calls(lock: InstanceLock) -> None:
    def both() -> None:
        with counting(lock) as stream:
            read_one(stream)
            use(lock)

    def read_one(stream: Stream[int]) -> int:
        return next(stream)

    with pytest.raises(Error, match=SAME_THREAD):
        in_thread(both)
    assert is_free(lock)
    with ThreadPoolExecutor(1) as pool, pytest.raises(Error, match=SAME_THREAD):
        pool.submit(both).result(LIMIT_S)

    async def by_asyncio() -> None:
        await asyncio.to_thread(both)

    with pytest.raises(Error, match=SAME_THREAD):
        asyncio.run(by_asyncio())
    assert is_free(lock)


@pytest.mark.parametrize("ahead", [True, False])
def test_jobs_of_one_thread_of_a_pool(lock: InstanceLock, ahead: bool) -> None:
    """One job reads and another one calls: their common thread does not hold the stream."""
    stream = counting(lock, ahead=ahead)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(next, stream).result(LIMIT_S) == 0
        waiting = pool.submit(use, lock)
        until(lambda: len(lock._queue) == 1 or waiting.done())
        assert list(stream) == [1, 2, 3, 4]
        assert waiting.result(LIMIT_S) == "done"


@pytest.mark.parametrize("ahead", [True, False])
def test_jobs_with_different_contexts(lock: InstanceLock, ahead: bool) -> None:
    """The pools of anyio (starlette, FastAPI) and trio work this way."""
    jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
    finished: queue.SimpleQueue[object] = queue.SimpleQueue()

    def worker() -> None:
        while (job := jobs.get()) is not None:
            finished.put(contextvars.copy_context().run(job))

    thread = run_in_thread(worker)
    stream = counting(lock, ahead=ahead)
    jobs.put(lambda: next(stream))
    assert finished.get(timeout=LIMIT_S) == 0
    jobs.put(lambda: use(lock))
    until(lambda: len(lock._queue) == 1 or not finished.empty())
    assert list(stream) == [1, 2, 3, 4]
    assert finished.get(timeout=LIMIT_S) == "done"
    jobs.put(None)
    thread.result()


# --- asyncio ---------------------------------------------------------------------------------------------------------


def test_more_calls_than_the_pool_has_threads(lock: InstanceLock) -> None:
    """All threads of the pool wait for the stream, and none is left to read it."""

    async def main() -> list[object]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        stream = counting(lock)
        chunks = [await asyncio.to_thread(next, stream)]
        calls = [asyncio.create_task(asyncio.to_thread(use, lock)) for _ in range(6)]
        await asyncio.sleep(0)
        while (item := await asyncio.to_thread(next, stream, None)) is not None:
            chunks.append(item)
        return [chunks, *await asyncio.gather(*calls)]

    assert asyncio.run(asyncio.wait_for(main(), LIMIT_S)) == [[0, 1, 2, 3, 4], *["done"] * 6]


def test_tasks_of_one_event_loop(lock: InstanceLock) -> None:
    """A call in the loop's own thread blocks all tasks of the loop."""

    async def main(read: Callable[[Stream[int]], Any], *, ahead: bool) -> None:
        stream = counting(lock, ahead=ahead)
        await asyncio.create_task(read(stream))
        try:
            await asyncio.create_task(call())
        finally:
            stream.close()

    async def call() -> None:
        use(lock)

    async def directly(stream: Stream[int]) -> None:
        next(stream)

    async def by_a_thread(stream: Stream[int]) -> None:
        await asyncio.to_thread(next, stream)

    for in_its_thread in (lambda run: run(), in_thread):  # the main thread's loop, and one of another thread
        for ahead in (True, False):
            with pytest.raises(Error, match=SAME_THREAD):
                in_its_thread(lambda ahead=ahead: asyncio.run(main(directly, ahead=ahead)))
        in_its_thread(lambda: asyncio.run(main(by_a_thread, ahead=True)))
        with pytest.raises(Error, match=r"stop this thread's event loop: .* \(asyncio.to_thread\)"):
            in_its_thread(lambda: asyncio.run(main(by_a_thread, ahead=False)))
    assert is_free(lock)


def test_a_canceled_task(lock: InstanceLock) -> None:
    """The read that it awaited continues in its thread, and its result is dropped there."""

    async def main() -> None:
        endless = Endless(lock)
        reader = asyncio.create_task(asyncio.to_thread(list, endless.stream))
        await asyncio.to_thread(endless.computing.wait, LIMIT_S)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        endless.stream.close()
        assert await asyncio.to_thread(use, lock) == "done"

    asyncio.run(asyncio.wait_for(main(), LIMIT_S))
