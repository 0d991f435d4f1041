"""One HTTP connection of the load generator, driven by epoll events."""

import socket
from collections.abc import Callable
from typing import Any

import httptools

LARGEST_READ = 2**16
Address = tuple[Any, ...]


class Connection:
    """A keep-alive connection with one request at a time.

    `answered` is called with the connection, and its answer's status and body; status 0 is a
    connection that broke. `request` is its owner's name for the request under way.
    """

    def __init__(
        self,
        family: socket.AddressFamily,
        address: Address,
        answered: Callable[["Connection", int, bytes], None],
    ) -> None:
        self._socket = socket.socket(family)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.connect_ex(address)
        self._answered = answered
        self._parser = httptools.HttpResponseParser(self)
        self._unsent = self._body = b""
        self.file = self._socket.fileno()
        self.request: int | None = None
        self.is_closed = False

    def send(self, data: bytes = b"") -> None:
        """Sends these bytes and those that did not fit before, as far as they fit now."""
        self._unsent += data
        if not self._unsent:
            return
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self._unsent = b""  # the server closed; its answer, if it sent one, is still to be read

    def receive(self) -> None:
        try:
            while data := self._socket.recv(LARGEST_READ):
                self._parser.feed_data(data)
                if len(data) < LARGEST_READ:
                    return
            self.close()
        except BlockingIOError:
            return
        except (OSError, httptools.HttpParserError):
            self.close()

    def close(self) -> None:
        """Ends the connection; a request under way has no answer."""
        if not self.is_closed:
            self.is_closed = True
            self._socket.close()
        self._answered(self, 0, b"")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        status, body = self._parser.get_status_code(), self._body
        self._body = b""
        if not self._parser.should_keep_alive():
            self.is_closed = True
            self._socket.close()
        self._answered(self, status, body)
