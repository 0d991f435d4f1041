"""Numbers that the processes of a server share: each counts in a memory of its own, all read it.

A memory is a file in RAM without a name. It is gone when the last process that has it open ends.
The counts of a process outlive it, and its successor adds to them.
"""

import json
import mmap
import os
import threading
from collections.abc import Iterator
from enum import IntEnum

Key = tuple[str, ...]
"""The name of some numbers, such as a metric's and the values of its labels."""

NUMBER_BYTES = 8
KEYS_AT, SIZE = 8 * 2**20, 16 * 2**20
"""Numbers come first, then their names, one JSON list a line. Only what is used takes memory."""


class State(IntEnum):
    """The state of the process that has the memory. One that starts is ABSENT."""

    ABSENT = 0
    READY = 1
    DRAINING = 2


class Head(IntEnum):
    """Numbers that every memory begins with."""

    USED = 0
    KEY_BYTES = 1
    STATE = 2
    BEAT = 3
    CLOSED = 4
    PID = 5
    PARENT = 6
    RESTARTS = 7


class Memory:
    """The memory of this process, by default a new one; `head` is indexed by Head.

    Any thread may add to a number: the interpreter switches threads nowhere between the read and
    the write of one. New numbers are taken by one thread at a time.
    """

    def __init__(self, fd: int | None = None) -> None:
        self.fd = new_memory() if fd is None else fd
        self._bytes = mmap.mmap(self.fd, SIZE)
        self._numbers: memoryview[float] = memoryview(self._bytes).cast("d")
        self.head = self._numbers[: len(Head)]
        self.head[Head.USED] = max(self.head[Head.USED], len(Head))
        self.head[Head.PID] = os.getpid()
        self._places = places(self.fd)
        self._lock = threading.Lock()

    def take(self, key: Key, size: int) -> "memoryview[float]":
        """The numbers of that name: those there are, or new ones, at 0."""
        place = self._places.get(key)
        if place is None:
            with self._lock:
                if (place := self._places.get(key)) is None:
                    place = self._places[key] = self._new(key, size)
        return self._numbers[place]

    def matching(self, prefix: Key) -> "Iterator[memoryview[float]]":
        """All whose name begins so."""
        for key, place in self._places.copy().items():  # another thread may take new ones
            if key[: len(prefix)] == prefix:
                yield self._numbers[place]

    def _new(self, key: Key, size: int) -> slice:
        start, end = int(self.head[Head.USED]), KEYS_AT + int(self.head[Head.KEY_BYTES])
        line = json.dumps([start, size, *key]).encode() + b"\n"
        if (start + size) * NUMBER_BYTES > KEYS_AT or end + len(line) > SIZE:
            raise MemoryError("the memory for metrics is full: too many models were loaded")
        self._bytes[end : end + len(line)] = line
        self.head[Head.USED] = start + size
        self.head[Head.KEY_BYTES] += len(line)  # only now do readers see it
        return slice(start, start + size)


def new_memory() -> int:
    """The descriptor of an empty memory."""
    fd = os.memfd_create("offramp")
    os.ftruncate(fd, SIZE)
    return fd


def shared_head(fd: int) -> "memoryview[float]":
    """What a memory begins with, to be written by another process than the memory's own."""
    return memoryview(mmap.mmap(fd, mmap.PAGESIZE)).cast("d")[: len(Head)]


def read_head(fd: int) -> "memoryview[float]":
    """A copy of what a memory begins with, indexed by Head."""
    return memoryview(os.pread(fd, len(Head) * NUMBER_BYTES, 0)).cast("d")


def read(fd: int) -> "dict[Key, memoryview[float]]":
    """A copy of all numbers in a memory, by name."""
    found = places(fd)
    used = max((place.stop for place in found.values()), default=0)
    numbers = memoryview(os.pread(fd, used * NUMBER_BYTES, 0)).cast("d")
    return {key: numbers[place] for key, place in found.items()}


def places(fd: int) -> dict[Key, slice]:
    """Which of a memory's numbers have which name."""
    num_bytes = int(read_head(fd)[Head.KEY_BYTES])
    lines = map(json.loads, os.pread(fd, num_bytes, KEYS_AT).splitlines())
    return {tuple(key): slice(start, start + size) for start, size, *key in lines}
