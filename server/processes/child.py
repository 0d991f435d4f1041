"""A member as the parent sees it: a process, a channel for connections, a wire for calls."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from server.processes.wire import Wire
from server.telemetry.memory import Head, State, new_memory, shared_head

MEMBER = "server.processes.member"
FAMILIES = {socket.AF_INET: b"4", socket.AF_INET6: b"6"}
"""Sent with each connection: the member then knows its family of addresses."""


class Child:
    """One member after the other, with the same number and the same memory."""

    def __init__(self, number: int, handle: Callable[["Child", Any], Awaitable[Any]]) -> None:
        self.number = number
        self.memory = new_memory()
        self.head = shared_head(self.memory)
        self.head[Head.PARENT] = os.getpid()
        self.process: asyncio.subprocess.Process | None = None
        self.is_ready = self.was_ready = False
        self.settled = asyncio.Event()
        self.silent_s, self._beat, self._num_given = 0.0, 0.0, 0
        self._handle = handle
        # a pair that no process reads, until there is a process
        self.channel, self._far_channel = socket.socketpair()
        self.wire = Wire(lambda request: handle(self, request))

    async def run(self, environment: dict[str, str], memories: Sequence[int], state: object) -> int:
        """Starts a process, gives it the state to begin in, and waits until it ends.

        Raises OSError where there are no more processes or files to be had.
        """
        for place in (Head.STATE, Head.BEAT, Head.CLOSED, Head.PID):
            self.head[place] = 0
        self.silent_s, self._num_given = 0.0, 0
        self.is_ready = self.was_ready = False
        self.settled.clear()
        for end in (self.channel, self._far_channel):
            end.close()
        kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
        self.channel, self._far_channel = socket.socketpair(socket.AF_UNIX, kind)
        wire, far_wire = socket.socketpair()
        descriptors = [far_wire.fileno(), self._far_channel.fileno(), self.number, *memories]
        try:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", MEMBER, ",".join(map(str, descriptors))),
                env=environment,
                pass_fds=(*descriptors[:2], *memories),
                process_group=0,  # a terminal's Ctrl-C comes through the parent
            )
        except OSError:
            wire.close()
            raise
        finally:
            far_wire.close()
        wire.sendall(json.dumps(state).encode() + b"\n")
        self.wire = Wire(lambda request: self._handle(self, request))
        await self.wire.open(wire)
        speaking = asyncio.create_task(self.wire.run())
        code = await self.process.wait()
        self.head[Head.STATE] = State.ABSENT
        await speaking
        self.was_ready, self.is_ready = self.is_ready, False
        self.settled.set()
        return code

    @property
    def num_open(self) -> int:
        """How many connections the member has."""
        return self._num_given - int(self.head[Head.CLOSED])

    def give(self, connection: socket.socket) -> None:
        """Hands over a connection; raises OSError where the member cannot take it."""
        family = FAMILIES[connection.family]
        socket.send_fds(self.channel, [family], [connection.fileno()])
        self._num_given += 1

    def left(self) -> Iterator[socket.socket]:
        """The connections that were sent to a process before it ended, and that it did not take."""
        with suppress(OSError):  # there are no more, or there was no channel
            while True:
                data, fds, _, _ = socket.recv_fds(self._far_channel, 1, 1)
                if not data:
                    break
                yield from (socket.socket(fileno=fd) for fd in fds)
        self.close_channel()
        self._far_channel.close()

    def close_channel(self) -> None:
        """Ends the connections to come: the member answers what it has, then ends."""
        self.channel.close()

    def listen_for_beat(self, seconds: float) -> float:
        """Seconds since its event loop last beat, if called every `seconds`."""
        beat = self.head[Head.BEAT]
        self.silent_s = 0.0 if beat != self._beat else self.silent_s + seconds
        self._beat = beat
        return self.silent_s

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)
