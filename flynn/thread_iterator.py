"""A blocking iterator as an asynchronous one: a thread iterates, the event loop is woken when there is something."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from collections import deque
from typing import Generic, TypeVar

from .pump import NAME, Pump, start, wake

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Deque, Iterable, List, Optional

    from typing_extensions import Self

    from .pump import Source, Wakes

T = TypeVar("T")

_FOREIGN = "a ThreadIterator belongs to the event loop that it was first used in"
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
        self._channel = Channel(iterable, buffer, interrupt)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        channel = self._channel
        while True:
            try:
                item: T = channel.items.popleft()  # without the lock, which is not needed, and is half the cost
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

    async def __aenter__(self) -> Self:
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


class Channel:
    """What the thread and the consumer share. The thread refers to nothing else of the consumer's, so that a consumer
    which nobody refers to is collected, and stops the thread."""

    def __init__(self, iterable: Any, size: int, interrupt: Optional[Callable[[], None]]) -> None:
        self.items: Deque[Any] = deque()
        self.size = size
        # Its lock is reentrant, as it has to be: the collector may run `ThreadIterator.__del__` while it is held.
        self.condition = threading.Condition()
        self.paused = False
        self.finished = False
        self.error: Optional[BaseException] = None
        self._iterable = iterable
        self._is_source = hasattr(iterable, "take_ready")
        self._source: Source = iterable
        self._interrupt = interrupt
        self._stopped = False
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._waiters: List[asyncio.Future[None]] = []  # a reader's, and that of whoever closes meanwhile
        self._heard = 0.0

    def begin(self) -> asyncio.AbstractEventLoop:
        """Start the thread if it does not run yet; the loop that it serves."""
        loop = asyncio.get_running_loop()
        if self._loop is None and not self.finished:
            self._loop = loop
            try:
                start(contextvars.copy_context().run, _pump.serve, self, name=NAME)
            except BaseException:
                self._loop = None  # it has not begun, and there is no thread to wait for
                raise
        elif self._loop not in (None, loop):
            raise RuntimeError(_FOREIGN)
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

    # --- in a thread of its own ---------------------------------------------------------------------------------------

    def iterate(self) -> bool:
        """Hand over item after item. True as soon as the pump can go on with it, False at the end."""
        error: Optional[BaseException] = None
        try:
            if self._has_room():
                for item in self._iterable:
                    wake({self._loop: self._put([item])})
                    if not self._has_room():
                        break
                    if self._is_source and self._source.waits:
                        return True
        except BaseException as raised:
            error = raised
        try:
            close = getattr(self._iterable, "close", None)
            if close is not None:
                close()
        except BaseException as raised:
            error = raised
        with self.condition:
            if error is None and not self._stopped and not self._is_wanted():
                error = RuntimeError(_FOREIGN)  # whoever reads on in another loop is not to take this for the end
            self.error = error
            self.finished = True
            wake({self._loop: self._put([])})
        return False

    def _put(self, items: List[Any]) -> List[asyncio.Future[None]]:
        """Add items. Who waits for them, and is to be woken: once, until it waits again it finds what is there."""
        with self.condition:
            if not self._stopped:
                self.items.extend(items)
            self.paused = len(self.items) >= self.size
            waiters, self._waiters = self._waiters, []
            return waiters

    def _has_room(self) -> bool:
        """Wait while many items are unclaimed. False if no more are wanted."""
        with self.condition:
            while self.paused and self._is_wanted():
                self.condition.wait(_LOOK)
            return self._is_wanted()

    def _is_wanted(self) -> bool:
        return not self._stopped and self._loop is not None and not self._loop.is_closed()

    # --- in the pump's thread, for a source ---------------------------------------------------------------------------

    def lend(self) -> int:
        """Begin to be read by the pump; the descriptor to wait for, -1 if a thread has to go on."""
        self._heard = time.monotonic()
        return self._source.lend()

    def give_back(self) -> None:
        """End to be read by the pump."""
        self._source.give_back()

    def pump(self, wakes: Wakes) -> bool:
        """Take what has come, and add whom to wake; whether the pump is to go on with it."""
        self._heard = time.monotonic()
        items = self._source.take_ready()
        if items:
            waiters = self._put(items)
            if waiters:
                wakes.setdefault(self._loop, []).extend(waiters)
        return not self.paused and self._is_wanted() and self._source.waits

    def is_late(self, now: float) -> bool:
        """Whether nothing has come for too long, which a thread then has to say."""
        limit = self._source.timeout
        if limit is None or now < self._heard + limit:
            return False
        self._source.expire()
        return True


_pump = Pump()
os.register_at_fork(after_in_child=_pump.__init__)  # type: ignore[misc]  # a child has none of its parent's threads
