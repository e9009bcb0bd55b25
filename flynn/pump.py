"""Threads: how one is started, and the one that reads for all streams which only wait for more to come.

llama-server generates for all of its slots at once, and sends all of their tokens in the same moment. With a thread for
each stream that moment would wake 64 threads, and each of them the event loop; this one is woken once, takes what has
come for all, and wakes the loop once. What may block (to connect, to resume, to end) each stream does in a thread of
its own, before and after.
"""

from __future__ import annotations

import os
import select
import threading
import time

from .errors import FlynnError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from typing import Any, Callable, Dict, List, Optional, Protocol

    from .thread_iterator import Channel

    Wakes = Dict[Optional[asyncio.AbstractEventLoop], List[asyncio.Future[None]]]

    class Source(Protocol):
        """An iterator that can be read without blocking while all it does is to wait for a socket."""

        @property
        def waits(self) -> bool:
            """Whether that is so now."""

        @property
        def timeout(self) -> Optional[float]:
            """Seconds in which something has to come, None for no limit."""

        def lend(self) -> int:
            """The socket's descriptor, not to be closed before `give_back`; -1 if it does not wait."""

        def take_ready(self) -> List[Any]:
            """The items that have come."""

        def expire(self) -> None:
            """Nothing came in time: iterating is to raise that."""

        def give_back(self) -> None:
            """The descriptor is not used any more."""


NAME = "flynn-iterator"  # of each thread
_TICK = 0.25  # seconds between two looks at the time


def start(target: Callable[..., object], *arguments: object, name: str) -> None:
    """Call a function in a thread of its own, which does not keep the process from ending.

    The size of its stack is left as it is. A smaller one would fit more often into little memory, but CPython allows a
    recursion that needs 2 MiB of it (3.13), and a server's deeply nested JSON would then end the process.

    Raises:
        FlynnError: there is no room for one.
    """
    try:
        threading.Thread(target=target, args=arguments, name=name, daemon=True).start()
    except RuntimeError as error:
        raise FlynnError(f"{error}: too little memory, or too many processes (see ulimit -v and ulimit -u)") from None


class Pump:
    """The thread, while there is anything for it to do."""

    def __init__(self) -> None:
        # Reentrant: the collector may run `__del__` methods that come here while it is held.
        self._lock = threading.RLock()
        self._new: List[Channel] = []
        self._bell = -1  # the end of a pipe to write to; -1 while there is no thread

    def serve(self, channel: Optional[Channel]) -> None:
        """Do what a channel needs a thread for, which is this one."""
        while channel is not None and channel.iterate():
            channel = self._take(channel)

    def _start(self, channel: Channel) -> None:
        try:
            start(self.serve, channel, name=NAME)
        except FlynnError:  # no thread can be had: this one will do, though the others wait for it
            self.serve(channel)

    def _take(self, channel: Channel) -> Optional[Channel]:
        """Read for a channel from now on; in this thread, if there is no other yet.

        Returns:
            A channel that needs a thread of its own, and may have this one.
        """
        with self._lock:
            self._new.append(channel)
            if self._bell >= 0:
                os.write(self._bell, b"\0")
                return None
            try:
                bell, self._bell = os.pipe()
            except OSError:  # no descriptor is left: a thread for each stream, then
                return self._new.pop()
        try:
            return self._run(bell)
        finally:
            os.close(bell)

    def _run(self, bell: int) -> Optional[Channel]:
        poll = select.poll()
        poll.register(bell, select.POLLIN)
        channels: Dict[int, Channel] = {}
        leaving: List[Channel] = []
        looked = time.monotonic()
        while True:
            leaving += self._admit(channels, poll)
            with self._lock:
                if not channels and not self._new:
                    os.close(self._bell)
                    self._bell = -1
                    for channel in leaving[1:]:
                        self._start(channel)
                    return leaving[0] if leaving else None
            for channel in leaving:
                self._start(channel)
            wakes: Wakes = {}
            left = [
                descriptor for descriptor, _ in poll.poll(_TICK * 1000) if descriptor != bell or not os.read(bell, 64)
            ]
            left = [descriptor for descriptor in left if not channels[descriptor].pump(wakes)]
            now = time.monotonic()
            if now > looked + _TICK:
                looked = now
                left += [descriptor for descriptor, channel in channels.items() if channel.is_late(now)]
            wake(wakes)
            leaving = [self._release(descriptor, channels, poll) for descriptor in dict.fromkeys(left)]

    def _admit(self, channels: Dict[int, Channel], poll: select.poll) -> List[Channel]:
        """Begin to wait for those that are new; those of them that cannot be waited for."""
        with self._lock:
            new, self._new = self._new, []
        refused = []
        for channel in new:
            descriptor = channel.lend()
            if descriptor < 0:
                refused.append(channel)
            else:
                channels[descriptor] = channel
                poll.register(descriptor, select.POLLIN)
        return refused

    @staticmethod
    def _release(descriptor: int, channels: Dict[int, Channel], poll: select.poll) -> Channel:
        poll.unregister(descriptor)
        channel = channels.pop(descriptor)
        channel.give_back()
        return channel


def wake(wakes: Wakes) -> None:
    """Resolve futures, each in its loop, from any thread."""
    for loop, waiters in wakes.items():
        if waiters and loop is not None:
            try:
                loop.call_soon_threadsafe(_resolve, waiters)
            except RuntimeError:
                pass  # the loop is closed, which channels see for themselves


def _resolve(waiters: List[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
