"""The parent of several server processes: takes connections for them, and keeps them running."""

import asyncio
import logging
import os
import signal
import socket
from typing import Any

from models.bundle.imports import import_variables
from server.processes.changes import Changes
from server.processes.child import Child
from server.processes.door import Door
from server.settings import Settings, SettingsError, variable
from server.telemetry.memory import Head, State

logger = logging.getLogger("offramp.processes")
SAID_WHY = 1
"""Exit status of a member that has printed the reason as its last line."""
TICK_S = 0.1
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 60.0
"""Pause before a process is replaced. It doubles, up to the longest, for each successor that ends
before it is ready."""
END_S = 10.0
"""Time that a member may take to end beyond its grace, before it is killed."""


class Parent:
    """Starts `num` members, and once they are ready hands out connections, until told to end.

    The first member is ready before the others start, since they read what it measured. The first
    connection is taken when all are ready: a server that answers has all its processes. A member
    that ends or hangs is replaced. A member that cannot start ends the server only before that;
    later the other members go on.
    """

    def __init__(self, settings: Settings, num: int, sockets: list[socket.socket]) -> None:
        self._settings, self._num = settings, num
        self._changes = Changes(lambda: [child for child in self._children if child.is_ready])
        self._children = [Child(number, self._answer) for number in range(num)]
        self._memories = [child.memory for child in self._children]
        self._door = Door(sockets, self._children)
        self._is_ending = self._is_open = False
        self._status = 0

    async def run(self) -> int:
        """The status to exit with: 0 where every process ended as it was told to.

        Raises SettingsError, once all have ended, where another server took the port meanwhile.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_end, number)
        watching = asyncio.create_task(self._watch())
        first, *others = self._children
        tending = [asyncio.create_task(self._tend(first))]
        await first.settled.wait()
        tending += [asyncio.create_task(self._tend(child)) for child in others]
        for child in others:
            await child.settled.wait()
        try:
            if not self._is_ending:
                self._door.open()
                self._is_open = True
        except SettingsError:
            self._told_to_end(signal.SIGTERM)
            raise
        finally:
            await asyncio.gather(*tending)
            watching.cancel()
        return self._status

    async def _tend(self, child: Child) -> None:
        """Runs one member after the other."""
        pause_s = FIRST_PAUSE_S
        while not self._is_ending:
            state = [self._changes.state, len(self._changes.log)]
            try:
                code = await child.run(self._environment(), self._memories, state)
            except OSError as error:  # there are no more processes or files to be had
                logger.error("process %d did not start: %s", child.number, error)
                code = os.EX_OSERR
            self._door.give_all(child.left())
            if self._is_ending:
                self._status = self._status or max(0, code)
                return
            if not self._is_open:
                self._cannot_start(child, code)
                return
            child.head[Head.RESTARTS] += 1
            pause_s = FIRST_PAUSE_S if child.was_ready else min(2 * pause_s, LONGEST_PAUSE_S)
            when = "" if child.was_ready else " before it was ready"
            text = "process %d %s%s; it is replaced in %g s"
            logger.error(text, child.number, how_ended(code), when, pause_s)
            await asyncio.sleep(pause_s)
        child.settled.set()

    def _environment(self) -> dict[str, str]:
        """Tells a member how many processes there are, since they share the cores."""
        return os.environ | import_variables() | {variable("processes"): str(self._num)}

    def _cannot_start(self, child: Child, code: int) -> None:
        if code != SAID_WHY:
            logger.error("process %d %s before all were ready", child.number, how_ended(code))
        self._status = code if code > 0 else 1
        self._told_to_end(signal.SIGTERM)

    def _told_to_end(self, number: int) -> None:
        """Has members drain, then end. A second signal is passed on, and ends them at once."""
        for child in self._children:
            child.signal(number)
        if self._is_ending:
            return
        self._is_ending = True
        loop, settings = asyncio.get_running_loop(), self._settings
        loop.call_later(settings.timeouts.drain_delay_s if self._is_open else 0, self._close)

    def _close(self) -> None:
        self._door.close()
        for child in self._children:
            child.close_channel()
            child.settled.set()
        loop = asyncio.get_running_loop()
        for child in self._children:
            loop.call_later(
                self._settings.timeouts.shutdown_grace_s + END_S, child.signal, signal.SIGKILL
            )

    async def _watch(self) -> None:
        """Ends members that hang. Time in which the parent itself did not run is not counted."""
        while True:
            await asyncio.sleep(TICK_S)
            for child in self._children:
                state = child.head[Head.STATE]
                if state == State.DRAINING and not self._is_ending:
                    child.close_channel()  # it got a signal of its own
                elif (
                    state == State.READY
                    and child.listen_for_beat(TICK_S) > self._settings.cores.stall_s
                ):
                    logger.error("process %d hangs", child.number)
                    child.silent_s = 0.0
                    child.signal(signal.SIGKILL)

    async def _answer(self, child: Child, request: Any) -> object:  # noqa: ANN401
        return await self._changes.answer(child, request)


def how_ended(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
