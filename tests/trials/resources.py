"""Check that a trial leaves no resources behind."""

from __future__ import annotations

import gc
import os
import threading

from scripted import eventually


class Resources:
    """The threads, file descriptors, objects of Flynn's classes, and memory of this process when it is created."""

    def __init__(self) -> None:
        gc.collect()
        self.threads = set(threading.enumerate())
        self.descriptors = self._descriptors()
        self.objects = self._objects()
        self.memory = self._memory()

    def settle(self, idle: int = 0) -> int:
        """Wait until the process has no more resources than at the start. Returns the growth of memory in bytes.

        Args:
            idle: the number of connections that may stay open.
        """
        gc.collect()
        eventually(lambda: set(threading.enumerate()) <= self.threads)
        eventually(lambda: self._descriptors() <= self.descriptors + idle)
        more = self._objects() - self.objects
        assert more <= 50 + 10 * idle, f"{more} more objects than before"
        return self._memory() - self.memory

    @staticmethod
    def _descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    @staticmethod
    def _objects() -> int:
        return sum(str(type(value).__module__).startswith("flynn") for value in gc.get_objects())

    @staticmethod
    def _memory() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
