"""uvicorn's HTTP/1.1, with the limits it leaves out: one deadline timer per connection."""

import asyncio
import time
from collections.abc import Callable
from itertools import chain
from typing import Any

from httptools import HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.http.arrival import HALF_TICK_S, unread_s

MAX_HEADER_BYTES = 65_536
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n"
AGAIN_S = 0.05
"""Time between the wake-ups of a reader whose body is late."""


class Transport(asyncio.Transport):
    """What a response is written to; closing it waits for the rest of the request."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write  # type: ignore[method-assign]
        self.is_closing = transport.is_closing  # type: ignore[method-assign]
        self.close = close  # type: ignore[method-assign]


class Parser(HttpRequestParser):
    """httptools' own, which takes a head that offers another protocol for a whole request.

    The offer is ignored, as in RFC 9110, section 7.8: the head is read again without it, and then
    what follows.
    """

    def __init__(self, protocol: "Protocol") -> None:
        self._protocol = protocol
        self._begin()

    def _begin(self) -> None:
        super().__init__(self._protocol)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def has_offer(self) -> bool:
        return self.should_upgrade() and self.get_method() != b"CONNECT"

    def feed_data(self, data: Any) -> None:  # noqa: ANN401
        """Raises HttpParserError, and HttpParserUpgrade after CONNECT."""
        while True:
            try:
                super().feed_data(data)
                return
            except HttpParserUpgrade as upgrade:
                if not self.has_offer():
                    raise
                (num_read,) = upgrade.args
                head = self._head_without_offer()
                self._begin()
                super().feed_data(head)
                data = memoryview(data)[num_read:]

    def _head_without_offer(self) -> bytes:
        first = self.get_method(), self._protocol.url, self.get_http_version().encode()
        lines = (b"%b: %b\r\n" % line for line in self._protocol.headers if line[0] != b"upgrade")
        return b"".join((b"%b %b HTTP/%b\r\n" % first, *lines, b"\r\n"))


class Protocol(HttpToolsProtocol):
    """A connection that is closed unless its next request has come after `receive_timeout_s`.

    uvicorn's own keep-alive limit starts anew with every byte, and only after the first answer. A
    body has as long; the reader is woken then, and refuses it. A client that leaves a response
    unread for `send_timeout_s` is dropped. Headers may have MAX_HEADER_BYTES; longer ones are
    refused, or end the connection where an earlier request is being answered. What
    still comes of a body after its response is dropped until the deadline, even where the
    connection is to be closed: a client that is cut off while it sends would lose the response.

    `scope["gone"]` is done once the connection is lost. `scope["arrival"]` is when the request
    came: it may have waited unread, for as long as `waited_s` says at most. `scope["is_surplus"]`
    tells that `max_connections` older ones are open: the application is to end this one.
    """

    parser: Parser
    max_connections: int
    receive_timeout_s = 10.0
    send_timeout_s = 10.0
    waited_s: Callable[[float], float]
    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _num_header_bytes = 0
    _is_over = False
    """Whether all that still comes is dropped."""
    _is_surplus = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._is_surplus = len(self.connections) > self.max_connections
        self.parser = Parser(self)
        self._gone = self.loop.create_future()
        self._responding = Transport(transport, self._close_after_body)
        self._expect(self.receive_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._deadline, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        self._gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        self._num_header_bytes += len(data)  # unless it turns out to be more than headers
        super().data_received(data)
        if self._num_header_bytes > MAX_HEADER_BYTES:
            self._refuse_headers()

    def send_400_response(self, msg: str) -> None:
        if not self._is_over:
            super().send_400_response(msg)

    def on_headers_complete(self) -> None:
        if self.parser.has_offer():
            return  # the same head follows without it
        self._num_header_bytes = 0
        if len(self.url) + sum(map(len, chain.from_iterable(self.headers))) > MAX_HEADER_BYTES:
            self._refuse_headers()
            raise ValueError("headers are too long")  # ends the parsing
        now = time.monotonic()
        self.scope["arrival"] = now - self._unread_s(now)  # type: ignore[typeddict-unknown-key]
        self.scope["gone"] = self._gone  # type: ignore[typeddict-unknown-key]
        self._is_surplus &= len(self.connections) > self.max_connections
        self.scope["is_surplus"] = self._is_surplus  # type: ignore[typeddict-unknown-key]
        if self._is_idle():
            self._expect(self.receive_timeout_s)
        super().on_headers_complete()
        self.cycle.transport = self._responding

    def _unread_s(self, now: float) -> float:
        """How long the request has waited for the loop."""
        most_s = self.waited_s(now)
        return min(most_s, unread_s(self.transport)) if most_s > HALF_TICK_S else most_s

    def on_body(self, body: bytes) -> None:
        self._num_header_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.has_offer():
            return
        self._num_header_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_over:
            self._expect(self.timeout_keep_alive + self.receive_timeout_s)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.send_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _refuse_headers(self) -> None:
        if self._is_idle():
            self.transport.write(TOO_LARGE)
            self._say_no_more()
        else:
            self._is_over = True
            self.transport.abort()

    def _close_after_body(self) -> None:
        if self.cycle.more_body:
            self._say_no_more()
        else:
            self.transport.close()

    def _say_no_more(self) -> None:
        self._is_over = True
        self.transport.write_eof()
        self._expect(self.receive_timeout_s)

    def _expect(self, seconds: float) -> None:
        """Sets the deadline of the next request, or of the rest of its body."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        if self._is_over or self._is_idle():
            self.transport.abort()
        elif self.cycle.more_body:
            self.cycle.message_event.set()  # its reader's own clock may be a little behind
            self._expect(AGAIN_S)

    def _is_idle(self) -> bool:
        """Whether no request is being answered; bytes that still arrive are not of one."""
        return self.cycle is None or self.cycle.response_complete
