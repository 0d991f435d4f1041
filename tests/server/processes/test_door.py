"""Connections that no member can take yet."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from server.processes import door
from server.processes.door import Door

NUM_CLIENTS = 20


class Member:
    """Takes connections once it is ready."""

    is_ready, silent_s, num_open = False, 0.0, 0

    def give(self, _: socket.socket) -> None:
        self.num_open += 1


def test_connections_that_wait_are_tried_by_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[Callable[[], None]] = []
    member: Any = Member()

    def start(_: float, step: Callable[[], None]) -> object:
        timers.append(step)
        return step

    async def run() -> None:
        loop = asyncio.get_running_loop()
        with monkeypatch.context() as patch:
            patch.setattr(loop, "call_later", start)
            waiting = Door([], [member])
            waiting.give_all([socket.socket() for _ in range(NUM_CLIENTS)])
            for _ in range(3):
                (step,) = timers
                timers.clear()
                step()
            member.is_ready = True
            timers.pop()()

    asyncio.run(run())
    assert timers == []
    assert member.num_open == NUM_CLIENTS


def test_no_further_connection_is_taken_while_one_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "PAUSE_S", 60)
    member: Any = Member()

    async def run() -> int:
        """How many connections are given once the member is ready."""
        with ExitStack() as clients, socket.create_server(("127.0.0.1", 0)) as listening:
            opened = Door([listening], [member])
            opened.open()
            for _ in range(NUM_CLIENTS):
                clients.enter_context(socket.create_connection(listening.getsockname()))
            await asyncio.sleep(0.1)
            member.is_ready = True
            opened._go_on()
            taken: int = member.num_open
            opened.close()
        return taken

    assert asyncio.run(run()) == 1
    assert member.num_open == NUM_CLIENTS


def test_a_connection_that_comes_back_after_the_end_is_no_error() -> None:
    """Such as a process left that was killed at the end of its time."""

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as left:
            closed = Door([listening], [])
            closed.open()
            closed.close()
            closed.give_all([left])

    asyncio.run(run())
