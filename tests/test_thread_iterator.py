"""ThreadIterator with plain iterators: the items, when its thread waits, and that the thread ends."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import random
import socket
import threading
import time
from typing import Any, Callable, Iterator, List, Optional, Set

import pytest
from scripted import eventually

from flynn.thread_iterator import ThreadIterator


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    eventually(lambda: set(threading.enumerate()) <= before)


class Source:
    """An iterator that counts its items, and records the threads in which it was closed."""

    def __init__(self, count: Optional[int] = None, error: Optional[BaseException] = None) -> None:
        self.given = 0
        self.closed_in: List[threading.Thread] = []
        self._count = count
        self._error = error

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> int:
        if self.given == self._count:
            raise self._error or StopIteration
        self.given += 1
        return self.given

    def close(self) -> None:
        self.closed_in.append(threading.current_thread())


class Blocking:
    """An iterator that blocks until it is interrupted, after `count` items."""

    def __init__(self, count: int = 0) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.interrupts = 0
        self._items = iter(range(count))

    def __iter__(self) -> Blocking:
        return self

    def __next__(self) -> int:
        for item in self._items:
            return item
        self.ours.recv(1)
        raise StopIteration

    def interrupt(self) -> None:
        self.interrupts += 1
        self.ours.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


async def collect(iterator: ThreadIterator[Any]) -> List[Any]:
    return [item async for item in iterator]


# --- items ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1000])
@pytest.mark.parametrize("buffer", [1, 2, 256])
def test_it_yields_all_items_in_order(count: int, buffer: int) -> None:
    assert asyncio.run(collect(ThreadIterator(range(count), buffer=buffer))) == list(range(count))


def test_it_yields_all_items_whichever_side_is_faster() -> None:
    async def read() -> List[int]:
        random_ = random.Random(1)
        items = []
        async for item in ThreadIterator(slow(), buffer=random_.randint(1, 5)):
            if random_.random() < 0.05:
                await asyncio.sleep(random_.random() * 0.003)
            items.append(item)
        return items

    def slow() -> Iterator[int]:
        random_ = random.Random(2)
        for item in range(1000):
            if random_.random() < 0.05:
                time.sleep(random_.random() * 0.003)
            yield item

    assert asyncio.run(read()) == list(range(1000))


def test_an_exhausted_iterator_stays_exhausted() -> None:
    async def read() -> None:
        iterator = ThreadIterator([1])
        assert await iterator.__anext__() == 1
        for _ in range(2):
            with pytest.raises(StopAsyncIteration):
                await iterator.__anext__()

    asyncio.run(read())


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt("now"), asyncio.CancelledError("odd")])
@pytest.mark.parametrize("count", [0, 1, 5, 300])
def test_an_exception_of_the_iterable_is_raised_after_the_items_before_it(error: BaseException, count: int) -> None:
    source = Source(count, error)

    async def read() -> None:
        items = []
        iterator = ThreadIterator(source)
        try:
            async for item in iterator:
                items.append(item)
        except BaseException as raised:
            assert raised is error
        assert len(items) == count
        assert await collect(iterator) == []

    asyncio.run(read())
    assert len(source.closed_in) == 1


def test_an_exception_of_close_is_raised() -> None:
    source = Source(3)
    source.close = lambda: 1 / 0  # type: ignore[assignment,method-assign]
    with pytest.raises(ZeroDivisionError):
        asyncio.run(collect(ThreadIterator(source)))


def test_an_object_that_is_not_iterable_raises_at_the_first_item() -> None:
    with pytest.raises(TypeError, match="not iterable"):
        asyncio.run(collect(ThreadIterator(5)))  # type: ignore[arg-type]


def test_the_thread_runs_in_a_copy_of_the_context_of_the_first_iteration() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="default")

    def see() -> Iterator[str]:
        yield variable.get()
        variable.set("inside")
        yield variable.get()

    async def read(value: str) -> List[str]:
        iterator = ThreadIterator(see())  # made before the variable is set
        variable.set(value)
        return [*await collect(iterator), variable.get()]

    async def read_two() -> List[List[str]]:
        return list(await asyncio.gather(read("a"), read("b")))

    assert asyncio.run(read_two()) == [["a", "inside", "a"], ["b", "inside", "b"]]


def test_a_buffer_holds_at_least_one_item() -> None:
    with pytest.raises(ValueError, match="buffer must be 1 or more items, not 0"):
        ThreadIterator([], buffer=0)


# --- the thread -------------------------------------------------------------------------------------------------------


def test_no_thread_starts_before_iteration() -> None:
    source = Source()

    async def make() -> None:
        ThreadIterator(source)
        await asyncio.sleep(0.05)

    before = threading.active_count()
    asyncio.run(make())
    assert threading.active_count() == before
    assert source.given == 0


def test_entering_the_block_starts_the_thread() -> None:
    source = Source()

    async def enter() -> None:
        async with ThreadIterator(source, buffer=3):
            while source.given < 3:
                await asyncio.sleep(0.01)

    asyncio.run(enter())


def test_it_runs_in_its_own_thread_not_in_the_executor() -> None:
    async def read() -> Set[str]:
        free = threading.Event()
        loop = asyncio.get_running_loop()
        blockers = [loop.run_in_executor(None, free.wait) for _ in range(100)]
        names = await collect(ThreadIterator(threading.current_thread().name for _ in range(3)))
        free.set()
        await asyncio.gather(*blockers)
        return set(names)

    assert asyncio.run(read()) == {"flynn-iterator"}


@pytest.mark.parametrize("buffer", [1, 2, 10, 256])
def test_a_slow_consumer_slows_the_producer(buffer: int) -> None:
    source = Source()

    async def read() -> None:
        async with ThreadIterator(source, buffer=buffer) as iterator:
            for taken in range(1, 3 * buffer):
                await iterator.__anext__()
                if taken % buffer < 2:
                    await asyncio.sleep(0.02)
                assert source.given <= taken + buffer
            await asyncio.sleep(0.05)
            # It goes on when half of the items are consumed, so at least that many are ready now.
            assert source.given >= taken + buffer // 2

    asyncio.run(read())


def test_the_loop_is_woken_once_for_many_items() -> None:
    async def read() -> int:
        loop = asyncio.get_running_loop()
        wakeups = 0
        original = loop.call_soon_threadsafe

        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal wakeups
            wakeups += 1
            return original(*arguments, **options)

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        source = Source(5000)
        iterator = ThreadIterator(source, buffer=10_000)
        assert await iterator.__anext__() == 1
        while source.given < 5000:
            await asyncio.sleep(0.01)
        assert len(await collect(iterator)) == 4999
        return wakeups

    assert asyncio.run(read()) <= 2  # one for the first items, one perhaps for the end


# --- ending -----------------------------------------------------------------------------------------------------------


def test_leaving_the_block_ends_the_thread_and_closes_the_iterable_in_it() -> None:
    source = Source()

    async def read() -> None:
        before = threading.active_count()
        async with ThreadIterator(source) as iterator:
            async for _ in iterator:
                break
        eventually(lambda: threading.active_count() == before, 1.0)  # reporting its end is the last thing that it does
        await iterator.aclose()
        assert await collect(iterator) == []

    asyncio.run(read())
    assert [thread.name for thread in source.closed_in] == ["flynn-iterator"]


def test_an_iterator_closed_before_it_starts_yields_nothing() -> None:
    source = Source()

    async def read() -> None:
        iterator = ThreadIterator(source)
        await iterator.aclose()
        assert await collect(iterator) == []
        async with iterator:
            assert await collect(iterator) == []

    asyncio.run(read())
    assert source.given == 0


async def cancelled(iterator: ThreadIterator[Any]) -> None:
    task = asyncio.ensure_future(collect(iterator))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def timed_out(iterator: ThreadIterator[Any]) -> None:
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(collect(iterator), 0.05)


async def broken_out_of(iterator: ThreadIterator[Any]) -> None:
    async for _ in iterator:
        break


async def forgotten(iterator: ThreadIterator[Any]) -> None:
    await iterator.__anext__()
    cycle: List[Any] = [iterator]
    cycle.append(cycle)
    del iterator, cycle
    gc.collect()


@pytest.mark.parametrize("end", [cancelled, timed_out, broken_out_of, forgotten])
def test_a_blocked_iterable_is_interrupted_once_however_the_iteration_ends(end: Callable[..., Any]) -> None:
    blocking = Blocking(count=3)
    asyncio.run(end(ThreadIterator(blocking, interrupt=blocking.interrupt)))
    gc.collect()
    eventually(lambda: blocking.ours.fileno() == -1)
    assert blocking.interrupts == 1


@pytest.mark.parametrize("end", [broken_out_of, forgotten])
def test_a_thread_that_waits_for_room_in_the_buffer_ends_too(end: Callable[..., Any]) -> None:
    source = Source()
    asyncio.run(end(ThreadIterator(source, buffer=2)))
    gc.collect()
    eventually(lambda: source.closed_in)


def test_without_interrupt_the_thread_ends_after_the_current_item() -> None:
    waits, proceed = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 1
        waits.set()
        proceed.wait()
        yield 2
        raise AssertionError("nobody wanted this")

    async def read() -> None:
        iterator = ThreadIterator(items())
        await iterator.__anext__()
        waits.wait(10)
        task = asyncio.ensure_future(iterator.aclose())
        await asyncio.sleep(0.05)
        assert not task.done()
        proceed.set()
        await task

    asyncio.run(read())


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize("kept", [True, False])
def test_closing_the_event_loop_ends_the_thread(kept: bool) -> None:
    """At the next item; about a second later if the buffer is full."""
    source = Source()
    iterator = ThreadIterator(source, buffer=2)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(iterator.__anext__())
    if not kept:
        del iterator
    loop.close()
    eventually(lambda: source.closed_in)


def test_an_iterator_cannot_go_on_in_another_event_loop() -> None:
    iterator = ThreadIterator(Source(), buffer=1)

    async def read() -> None:
        for _ in range(10):
            await iterator.__anext__()

    asyncio.run(read())
    with pytest.raises(RuntimeError, match="belongs to the event loop that it was first used in"):
        asyncio.run(read())


def test_an_iteration_ended_by_its_event_loop_has_no_normal_end_in_another() -> None:
    source = Source()
    iterator = ThreadIterator(source, buffer=1)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(iterator.__anext__())
    loop.close()
    eventually(lambda: source.closed_in)
    with pytest.raises(RuntimeError, match="belongs to the event loop that it was first used in"):
        asyncio.run(collect(iterator))


def test_concurrent_tasks_share_the_items() -> None:
    async def read() -> List[List[int]]:
        iterator = ThreadIterator(slow(), buffer=3)
        return list(await asyncio.gather(*[collect(iterator) for _ in range(4)]))

    def slow() -> Iterator[int]:
        for item in range(100):
            time.sleep(0.0005)
            yield item

    parts = asyncio.run(read())
    assert sorted(sum(parts, [])) == list(range(100))
    assert parts == [sorted(part) for part in parts]


def test_closing_ends_a_task_that_is_reading_without_an_error() -> None:
    blocking = Blocking(count=3)

    async def read() -> None:
        iterator = ThreadIterator(blocking, interrupt=blocking.interrupt)
        reader = asyncio.ensure_future(collect(iterator))
        await asyncio.sleep(0.05)
        await asyncio.gather(iterator.aclose(), iterator.aclose())
        assert await reader == [0, 1, 2]

    asyncio.run(read())
