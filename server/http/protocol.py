"""uvicorn's HTTP/1.1, with the limits it leaves out."""

import asyncio
import time
from itertools import chain

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.http.door import Door

MAX_HEADER_BYTES = 65_536
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n"
LINGER_S = 1.0
"""How long more is read: a client that is cut off while it sends would lose the refusal."""


class Protocol(HttpToolsProtocol):
    """A connection that is closed unless its next request has come after `receive_timeout_s`.

    uvicorn's own keep-alive limit starts anew with every byte, and only after the first answer.
    Headers may have MAX_HEADER_BYTES; longer ones are refused, or end the connection where an
    earlier request is being answered. `scope["abort"]` drops the connection and all that is unsent;
    `scope["gone"]` is done once it is lost. `scope["arrival"]` is when the headers had come: before
    the request's turn on the event loop. The door's refusal is sent once the request has come.
    """

    receive_timeout_s = 10.0
    door: Door
    _refusal: bytes | None = None
    _deadline: asyncio.TimerHandle | None = None
    _num_header_bytes = 0
    _is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._gone = self.loop.create_future()
        self._expect_request(self.receive_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)
        self._gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._num_header_bytes += len(data)  # unless it turns out to be more than headers
        super().data_received(data)
        if self._num_header_bytes > MAX_HEADER_BYTES:
            self._refuse_headers()

    def send_400_response(self, msg: str) -> None:
        if not self._is_refused:
            super().send_400_response(msg)

    def on_headers_complete(self) -> None:
        self._num_header_bytes = 0
        if len(self.url) + sum(map(len, chain.from_iterable(self.headers))) > MAX_HEADER_BYTES:
            self._refuse_headers()
            raise ValueError("headers are too long")  # ends the parsing
        if self.parser.get_method() == b"POST" and self._is_idle() and not self.expect_100_continue:
            self._refusal = self.door.refusal(self.url, self.headers, len(self.tasks))
            if self._refusal is not None:
                return
        self.scope["abort"] = self.transport.abort  # type: ignore[typeddict-unknown-key]
        self.scope["arrival"] = time.monotonic()  # type: ignore[typeddict-unknown-key]
        self.scope["gone"] = self._gone  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._num_header_bytes = 0
        if self._refusal is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._num_header_bytes = 0
        if self._refusal is None:
            super().on_message_complete()
            return
        self.transport.write(self._refusal)
        self._refusal = None
        if self.parser.should_keep_alive():
            self._expect_request(self.timeout_keep_alive + self.receive_timeout_s)
        else:
            self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_request(self.timeout_keep_alive + self.receive_timeout_s)

    def _refuse_headers(self) -> None:
        self._is_refused = True
        if self._is_idle():
            self.transport.write(TOO_LARGE)
            self.transport.write_eof()
            self._expect_request(LINGER_S)
        else:
            self.transport.abort()

    def _expect_request(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._is_idle():
            self.transport.abort()

    def _is_idle(self) -> bool:
        """Whether no request is being answered; what still arrives is of none or of an old one."""
        return self.cycle is None or self.cycle.response_complete
