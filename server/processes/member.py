"""One of several server processes: `python -m server.processes.member DESCRIPTORS OPTIONS`."""

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

from fastapi import FastAPI

from models.bundle.bundle import BundleError
from models.bundle.errors import UserError
from server.app import create_app, load_catalog
from server.errors import Draining, UnknownModel
from server.http.listener import Listener
from server.http.protocol import Protocol
from server.processes.alone import begin, settle
from server.processes.everywhere import SharedRepository, state_of
from server.processes.wire import Wire, WireClosed
from server.settings import Settings, load_settings
from server.telemetry.memory import Head, Memory, State
from server.telemetry.metrics import Metrics
from server.zoo.directory import find_bundles
from server.zoo.repository import UNLOADED

FAMILIES = {b"4": socket.AF_INET, b"6": socket.AF_INET6}
AT_ONCE = 16
"""Connections taken between two turns of the event loop."""


class Counted(Protocol):
    """Counts its end, so that the parent knows which member has the fewest connections."""

    head: "memoryview[float]"

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.head[Head.CLOSED] += 1


class Member(Listener):
    """Serves the connections that come through a channel, until the channel is closed.

    A parent that ends closes it, also when it is killed: no member outlives its parent. `joined` is
    called once the member serves.
    """

    def __init__(
        self,
        app: FastAPI,
        settings: Settings,
        memory: Memory,
        channel: socket.socket,
        joined: Callable[[SharedRepository], Awaitable[None]],
    ) -> None:
        super().__init__(app, settings, type("Counted", (Counted,), {"head": memory.head}))
        self._memory, self._channel, self._joined = memory, channel, joined
        self._is_told = False
        self._tasks: set[asyncio.Task[Any]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        await super().startup([])
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._channel, self._take)
        self._memory.head[Head.STATE] = State.READY
        self._go_on(self._joined(self._app.state.service.repository))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """The parent closes the channel `drain_delay_s` later."""
        if self._is_told:
            os._exit(128 + sig)
        self._is_told = True
        self._drain()

    async def on_tick(self, counter: int) -> bool:
        self._memory.head[Head.BEAT] = time.monotonic()
        self._app.state.service.metrics.refresh()
        return await super().on_tick(counter)

    def _take(self) -> None:
        for _ in range(AT_ONCE):
            try:
                family, fds, _, _ = socket.recv_fds(self._channel, 1, 1)
            except BlockingIOError:
                return
            if not family:
                self._loop.remove_reader(self._channel)
                self._drain()
                self.should_exit = True
                return
            if not fds:  # too many files are open: the system has closed the connection
                self._memory.head[Head.CLOSED] += 1
                continue
            sock = socket.socket(FAMILIES[family], socket.SOCK_STREAM, fileno=fds[0])
            self._go_on(self._connect(sock))

    async def _connect(self, sock: socket.socket) -> None:
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(self._connection, sock)
        except OSError:  # the client has gone
            sock.close()
            self._memory.head[Head.CLOSED] += 1

    def _connection(self) -> asyncio.Protocol:
        make: Any = self.config.http_protocol_class
        made: asyncio.Protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    def _drain(self) -> None:
        super()._drain()
        self._memory.head[Head.STATE] = State.DRAINING

    def _go_on(self, work: Any) -> None:  # noqa: ANN401
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Joining:
    """Brings a member in: it loads what the other members serve, then follows every change."""

    def __init__(self, control: socket.socket, number: int, settings: Settings) -> None:
        self._control, self._number, self._settings = control, number, settings
        self.state, self._num_known = json.loads(first_line(control))
        self.wire = Wire(self._do)

    def load(self, metrics: Metrics) -> Any:  # noqa: ANN401
        """The catalog: for the first member everything on disk, else what the others serve."""
        if self.state is None:
            return load_catalog(self._settings, metrics)
        only = [(name, version) for name, version in self.state["served"]]
        catalog = load_catalog(self._settings, metrics, only)
        for name, version, reason in self.state["reasons"]:
            catalog.reasons.setdefault((name, version), reason)
        return catalog

    async def joined(self, repository: SharedRepository) -> None:
        """Tells the parent that this member serves, then follows its calls until it ends."""
        self._repository = repository
        await self.wire.open(self._control)
        speaking = asyncio.create_task(self.wire.run())
        with suppress(WireClosed):
            state = state_of(repository.catalog)
            await self.wire.call(["ready", state, self._num_known])
        if self.state is not None and self._settings.models.watch_interval_s is not None:
            await self._catch_up(repository)
        await speaking

    async def _do(self, request: Any) -> object:  # noqa: ANN401
        return await self._repository.do(request)

    async def _catch_up(self, repository: SharedRepository) -> None:
        """Loads what changed on disk since the member that watched it ended."""
        with suppress(BundleError):
            found = await asyncio.to_thread(find_bundles, self._settings.models.zoo)
            for key in found:
                if repository.catalog.reasons.get(key) != UNLOADED:
                    with suppress(BundleError, Draining, UnknownModel):
                        await repository.load(*key)


def first_line(control: socket.socket) -> bytes:
    """The parent's first line; it sends no other before the member has answered."""
    line = b""
    while not line.endswith(b"\n"):
        part = control.recv(65_536)
        if not part:
            sys.exit(0)  # the parent has ended
        line += part
    return line


def own_settings(number: int) -> Settings:
    """The server's settings; only the first member watches the zoo, for all."""
    return load_settings() if number == 0 else load_settings(watch_interval_s=None)


def main(descriptors: str) -> None:
    """Serves, with these descriptors: wire, channel, own number, and every member's memory."""
    control, channel, number, *memories = map(int, descriptors.split(","))
    settings = own_settings(number)
    begin(settings)
    memory = Memory(memories[number])
    metrics = Metrics(memory, memories)
    joining = Joining(socket.socket(fileno=control), number, settings)
    app = create_app(
        settings,
        joining.load(metrics),
        metrics,
        make_repository=partial(SharedRepository, joining.wire),
    )
    settle()
    Member(app, settings, memory, socket.socket(fileno=channel), joining.joined).run()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
