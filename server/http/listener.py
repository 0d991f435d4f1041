"""uvicorn, as this server runs it, and how it ends."""

import asyncio
import os
import socket
import time
from math import inf
from types import FrameType

import uvicorn
from fastapi import FastAPI

from server.http.protocol import Protocol
from server.service import Answering
from server.settings import Settings

LAST_WORDS_S = 1
"""How long answers may take once every job has been told to give the one it has."""


class Listener(uvicorn.Server):
    """Serves until SIGTERM or SIGINT, then leaves in an order that loses nothing.

    First the server is not ready and takes no more work. After `drain_delay_s`, in which load
    balancers notice, it takes no more connections either. Requests without an answer after
    `shutdown_grace_s` get that of the last exit that has run. A second signal ends the process at
    once.
    """

    def __init__(
        self, app: FastAPI, settings: Settings, protocol: type[Protocol] = Protocol
    ) -> None:
        self._app, self._settings, self._closes_at = app, settings, inf
        parts = {
            "max_connections": settings.limits.max_connections,
            "receive_timeout_s": settings.timeouts.receive_timeout_s,
            "send_timeout_s": settings.timeouts.send_timeout_s,
            "waited_s": staticmethod(self._waited_s),
        }
        config = uvicorn.Config(
            app,
            http=type("LimitedProtocol", (protocol,), parts),
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=settings.timeouts.keep_alive_s,
            timeout_graceful_shutdown=settings.timeouts.shutdown_grace_s + LAST_WORDS_S,
        )
        super().__init__(config)

    def _waited_s(self, now: float) -> float:
        """The engine, which exists once the app has started."""
        engine: Answering = self._app.state.service.engine
        return engine.waited_s(now)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._closes_at < inf:
            os._exit(128 + sig)
        self._drain()
        self._closes_at = time.monotonic() + self._settings.timeouts.drain_delay_s

    async def on_tick(self, counter: int) -> bool:
        self.should_exit |= time.monotonic() >= self._closes_at
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        hurry = self._app.state.service.engine.hurry
        timer = asyncio.get_running_loop().call_later(
            self._settings.timeouts.shutdown_grace_s, hurry
        )
        await super().shutdown(sockets)
        timer.cancel()
        self._app.state.service.metrics.ledger.settle()  # its timer will not come any more

    def _drain(self) -> None:
        """Takes no more work from now on."""
        self._app.state.gate.is_draining = True
