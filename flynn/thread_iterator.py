"""`ThreadIterator`: a blocking iterator as an asynchronous one. A thread iterates, and wakes the event loop.

The thread and the consumer share a `_Channel`. `append` and `popleft` of its deque are atomic: items need no lock.
The thread appends an item, then wakes the waiters. The consumer registers a waiter, then looks for an item once more.
Whichever is second sees what the other did, so no item is missed.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import weakref
from collections import deque
from typing import Any, Callable, Deque, Generic, Iterable, Optional, TypeVar

from .threads import start

T = TypeVar("T")
Self = TypeVar("Self", bound="ThreadIterator[Any]")

_FOREIGN = "a ThreadIterator belongs to the event loop that it was first used in"
_LOOP_CHECK = 1.0  # seconds between checks for a closed event loop, while the buffer is full


class ThreadIterator(Generic[T]):
    """Iterates a blocking iterable in its own thread.

    The thread starts with the first `async for` or `async with`, in a copy of the caller's context (`contextvars`). It
    ends with the iterable, or when its items are no longer wanted: the consumer was cancelled, closed or dropped the
    iterator, or its event loop was closed. An exception of the iterable is raised here, after the items before it.

    Args:
        iterable: the blocking iterable. Its `close`, if it has one, is always called in the thread, at the end.
        buffer: maximum number of waiting items, 256 by default; then the thread pauses until half of them are consumed.
        interrupt: called from any thread when the items are no longer wanted. It must not block, and makes a blocked
            iterable return. Without it the thread ends after the item that it is waiting for.

    Example:
        >>> async def lines(path):
        ...     with open(path) as file:
        ...         async for line in ThreadIterator(file):
        ...             print(line, end="")
    """

    def __init__(
        self, iterable: Iterable[T], *, buffer: int = 256, interrupt: Optional[Callable[[], None]] = None
    ) -> None:
        if buffer < 1:
            raise ValueError(f"buffer must be 1 or more items, not {buffer!r}")
        self._channel = _Channel(iterable, buffer, interrupt)

    def __aiter__(self: Self) -> Self:
        return self

    async def __anext__(self) -> T:
        channel = self._channel
        while True:
            finished = channel.finished  # read before `items`: it is set after the last item
            if channel.items:
                item: T = channel.take()
                return item
            await channel.wait()  # at the end it only checks that this is the right event loop
            if finished:
                error, channel.error = channel.error, StopAsyncIteration()
                raise error

    async def __aenter__(self: Self) -> Self:
        self._channel.begin()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the iteration and wait until the thread has ended. Closing twice is fine."""
        channel = self._channel
        channel.stop()
        while not channel.finished:
            channel.items.clear()  # with items left `wait` returns at once
            await channel.wait()
        channel.items.clear()

    def __del__(self) -> None:
        if hasattr(self, "_channel"):
            self._channel.stop()


class _Channel:
    """The state that the thread and the consumer share.

    The thread has no other reference to the consumer, so a dropped consumer is collected, which stops the thread.
    """

    def __init__(self, iterable: Iterable[Any], size: int, interrupt: Optional[Callable[[], None]]) -> None:
        self.items: Deque[Any] = deque()
        self.finished = False
        self.error: BaseException = StopAsyncIteration()  # raised once all items are consumed
        self._iterable = iterable
        self._size = size
        self._interrupt = interrupt
        self._stopped = False
        self._waker: Optional[_Waker] = None  # that of the consumer's loop, once the thread has started
        self._waiters: Deque[asyncio.Future[None]] = deque()  # of readers, and of a concurrent `aclose`
        # The lock of a Condition is reentrant: the collector may run `ThreadIterator.__del__` while it is held.
        self._room = threading.Condition()

    # --- in the event loop --------------------------------------------------------------------------------------------

    def begin(self) -> _Waker:
        """Start the thread if it has not started. Returns the waker of the event loop; RuntimeError in another."""
        waker = _waker_of(asyncio.get_running_loop())
        if self._waker is None and not self.finished:
            self._waker = waker
            try:
                start(contextvars.copy_context().run, self._iterate, name="flynn-iterator")
            except BaseException:
                self._waker = None  # there is no thread to wait for
                raise
        elif self._waker not in (None, waker):
            raise RuntimeError(_FOREIGN)
        return waker

    async def wait(self) -> None:
        """Wait until there is an item or the thread has ended. A cancelled wait stops the iteration."""
        waiter = self.begin().loop.create_future()
        self._waiters.append(waiter)
        if not self.items and not self.finished:
            try:
                await waiter
            except BaseException:
                self.stop()
                raise

    def take(self) -> Any:
        """Remove the next item. A paused thread goes on once half of the items are consumed."""
        item = self.items.popleft()
        if len(self.items) == self._size // 2:
            with self._room:
                self._room.notify()
        return item

    def stop(self) -> None:
        """Stop the iteration, from any thread."""
        if self._stopped or self.finished:
            return
        self._stopped = True
        if self._waker is None:
            self.finished = True  # no thread was started
        with self._room:
            self._room.notify()
        if self._interrupt is not None:
            self._interrupt()

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _iterate(self) -> None:
        try:
            try:
                if self._is_wanted():
                    for item in self._iterable:
                        self._put(item)
                        if not self._is_wanted():
                            break
            finally:
                close = getattr(self._iterable, "close", None)
                if close is not None:
                    close()
        except BaseException as error:
            self.error = error
        self.finished = True
        self._wake()

    def _put(self, item: Any) -> None:
        """Append an item. If the buffer is full then, wait until half of the items are consumed."""
        self.items.append(item)
        self._wake()
        if len(self.items) >= self._size:
            with self._room:
                while len(self.items) > self._size // 2 and self._is_wanted():
                    self._room.wait(_LOOP_CHECK)

    def _wake(self) -> None:
        assert self._waker is not None
        while self._waiters:
            self._waker.wake(self._waiters.popleft())

    def _is_wanted(self) -> bool:
        return not self._stopped and self._waker is not None and not self._waker.loop.is_closed()


class _Waker:
    """Resolves futures of one event loop from other threads. One wake-up of the loop resolves all that are ready."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._ready: Deque[asyncio.Future[None]] = deque()
        self._called = False

    def wake(self, waiter: asyncio.Future[None]) -> None:
        self._ready.append(waiter)
        if not self._called:
            self._called = True
            try:
                self.loop.call_soon_threadsafe(self._resolve)
            except RuntimeError:
                pass  # the loop is closed; the channels check that themselves

    def _resolve(self) -> None:
        self._called = False  # before the loop below: a future that is appended during it needs another call
        while self._ready:
            waiter = self._ready.popleft()
            if not waiter.done():
                waiter.set_result(None)


# By the `id` of the loop, which is unique because a waker keeps its loop alive.
_wakers: weakref.WeakValueDictionary[int, _Waker] = weakref.WeakValueDictionary()


def _waker_of(loop: asyncio.AbstractEventLoop) -> _Waker:
    waker = _wakers.get(id(loop))
    if waker is None:
        waker = _wakers[id(loop)] = _Waker(loop)
    return waker
