"""A blocking iterator as an asynchronous one: a thread iterates, the event loop is woken when there is something."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from typing import Callable, Deque, Generic, Iterable, List, Optional, TypeVar

from .thread import start

T = TypeVar("T")

_LOOK = 1.0  # seconds after which a thread whose buffer is full looks whether the loop was closed


class ThreadIterator(Generic[T]):
    """Iterates a blocking iterable in a thread of its own.

    The thread begins with the first `async for` or `async with`, in a copy of the caller's context (`contextvars`), and
    ends with the iterable, or soon after nobody wants its items any more: the consumer was cancelled, closed this,
    dropped it, or its event loop was closed. What the iterable raises is raised here, after the items before it.

    Args:
        iterable: what to iterate. Its `close`, if it has one, is called in the thread, at the end in every case.
        buffer: items that may wait here; then the thread pauses until half of them are consumed.
        interrupt: called, from any thread and without blocking, when the items are not wanted any more; makes a
            blocked iterable return. Without it the thread ends after the item that it waits for.

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
            raise ValueError(f"buffer is a number of items over 0, not {buffer!r}")
        self._channel = _Channel(iterable, buffer, interrupt)

    def __aiter__(self) -> ThreadIterator[T]:
        return self

    async def __anext__(self) -> T:
        channel = self._channel
        while True:
            try:
                item = channel.items.popleft()  # without the lock, which is not needed for this, and is half the cost
            except IndexError:
                pass
            else:
                if channel.paused:
                    channel.resume()
                return item
            with channel.condition:
                channel.resume()
                if channel.items:
                    continue
                if channel.finished:
                    error, channel.error = channel.error, None
                    if error is not None:
                        raise error
                    raise StopAsyncIteration
                waiter = channel.expect()
            try:
                await waiter
            except BaseException:
                channel.stop()
                raise

    async def __aenter__(self) -> ThreadIterator[T]:
        with self._channel.condition:
            self._channel.begin()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the iteration and wait until the thread has ended. Closing twice is fine."""
        channel = self._channel
        channel.stop()
        while True:
            with channel.condition:
                channel.items.clear()
                if channel.finished:
                    return
                waiter = channel.expect()
            await waiter

    def __del__(self) -> None:
        if hasattr(self, "_channel"):
            self._channel.stop()


class _Channel(Generic[T]):
    """What the thread and the consumer share. The thread refers to nothing else of the consumer's, so that a consumer
    which nobody refers to is collected, and stops the thread."""

    def __init__(self, iterable: Iterable[T], size: int, interrupt: Optional[Callable[[], None]]) -> None:
        self.items: Deque[T] = deque()
        self.size = size
        # Its lock is reentrant, as it has to be: the collector may run `ThreadIterator.__del__` while it is held.
        self.condition = threading.Condition()
        self.paused = False
        self.finished = False
        self.error: Optional[BaseException] = None
        self._iterable = iterable
        self._interrupt = interrupt
        self._stopped = False
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._waiters: List[asyncio.Future[None]] = []  # a reader's, and that of whoever closes meanwhile

    def begin(self) -> asyncio.AbstractEventLoop:
        """Start the thread if it does not run yet; the loop that it serves."""
        loop = asyncio.get_running_loop()
        if self._loop is None and not self.finished:
            self._loop = loop
            try:
                start(contextvars.copy_context().run, self._produce, name="flynn-iterator")
            except BaseException:
                self._loop = None  # it has not begun, and there is no thread to wait for
                raise
        elif self._loop not in (None, loop):
            raise RuntimeError("a ThreadIterator belongs to the event loop that it was first used in")
        return loop

    def expect(self) -> asyncio.Future[None]:
        """A future that is done when there is an item, or the end."""
        waiter = self.begin().create_future()
        self._waiters.append(waiter)
        return waiter

    def resume(self) -> None:
        """Let the thread go on if half of the items are consumed."""
        with self.condition:
            if self.paused and len(self.items) <= self.size // 2:
                self.paused = False
                self.condition.notify()

    def stop(self) -> None:
        """The items are not wanted any more."""
        with self.condition:
            if self._stopped or self.finished:
                return
            self._stopped = True
            self.finished = self._loop is None  # no thread will say so
            self.condition.notify()
        if self._interrupt is not None:
            self._interrupt()

    def _produce(self) -> None:
        error: Optional[BaseException] = None
        try:
            try:
                for item in self._iterable:
                    if not self._put(item):
                        break
            finally:
                close = getattr(self._iterable, "close", None)
                if close is not None:
                    close()
        except BaseException as raised:
            error = raised
        with self.condition:
            self.error = error
            self.finished = True
            self._wake()

    def _put(self, item: T) -> bool:
        """Hand over an item; False if no more are wanted."""
        assert self._loop is not None
        with self.condition:
            if not self._stopped:
                self.items.append(item)
                self._wake()
            self.paused = len(self.items) >= self.size
            while self.paused and not self._stopped and not self._loop.is_closed():
                self.condition.wait(_LOOK)
            return not self._stopped and not self._loop.is_closed()

    def _wake(self) -> None:
        """Wake the consumer, once: until it waits again it finds by itself what is there."""
        waiters, self._waiters = self._waiters, []
        if waiters and self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(_resolve, waiters)
            except RuntimeError:  # the loop is closed
                self._stopped = True


def _resolve(waiters: List[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
