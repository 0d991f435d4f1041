"""Takes connections and gives each to the member with the fewest."""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Iterable, Sequence

from server.http.ports import listen
from server.processes.child import Child

logger = logging.getLogger("offramp")
AT_ONCE = 64
"""Connections taken between two turns of the event loop."""
PAUSE_S = 0.01
SILENT_S = 1.0
"""A member that was silent for longer gets connections only if all members were."""


class Door:
    """The listening sockets. A connection waits here while no member can take it."""

    def __init__(self, sockets: list[socket.socket], children: Sequence[Child]) -> None:
        self._sockets, self._children = sockets, children
        self._waiting: deque[socket.socket] = deque()
        self._is_open = False
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Lets clients connect; raises SettingsError where another server has the port."""
        for sock in self._sockets:
            sock.setblocking(False)
        listen(self._sockets)
        self._is_open = True
        self._go_on()

    def close(self) -> None:
        """Takes no more connections; those that clients have made by now are handed out."""
        for sock in self._sockets:
            if self._is_open:
                asyncio.get_running_loop().remove_reader(sock)
                self._take(sock)
        self._is_open = False
        for sock in self._sockets:
            sock.close()
        for connection in self._waiting:
            connection.close()
        self._waiting.clear()

    def give_all(self, connections: Iterable[socket.socket]) -> None:
        """Hands out connections, such as a member left when it ended."""
        for connection in connections:
            self._give(connection)

    def _take(self, sock: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = sock.accept()
            except BlockingIOError:
                return
            except OSError as error:  # the client has gone, or there are too many files
                logger.warning("a connection was not taken: %s", error)
                self._pause()
                return
            self._give(connection)
            if self._waiting:
                return

    def _give(self, connection: socket.socket) -> None:
        ready = [child for child in self._children if child.is_ready]
        for child in sorted(ready, key=lambda each: (each.silent_s > SILENT_S, each.num_open)):
            try:
                child.give(connection)
            except OSError:  # its channel is full, or it is ending
                continue
            connection.close()
            return
        self._waiting.append(connection)
        self._pause()

    def _pause(self) -> None:
        loop = asyncio.get_running_loop()
        if self._is_open:
            for sock in self._sockets:
                loop.remove_reader(sock)
        if self._timer is None:  # one for all that wait: each would start one for each of them
            self._timer = loop.call_later(PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, deque()
        self.give_all(waiting)
        if self._is_open and not self._waiting:
            for sock in self._sockets:
                asyncio.get_running_loop().add_reader(sock, self._take, sock)
