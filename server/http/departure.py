"""Pure ASGI middleware that notices when a client goes away.

Starlette's BaseHTTPMiddleware hides disconnects from everything inside it, hence none is used.
"""

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ClientGone
from server.telemetry.metrics import Metrics


class Departure:
    """Cancels a request's work when its client goes away, and raises ClientGone.

    Until the body has arrived, whoever reads it learns of the disconnect. From then on until the
    last byte of the response is handed over, `scope["gone"]` tells of it, a future of the
    connection, or a task that waits for it where the server has none. A client that leaves what
    it is sent unread for `send_timeout_s` is dropped, and gone too.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, send_timeout_s: float) -> None:
        self.app, self.metrics, self.send_timeout_s = app, metrics, send_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        work = asyncio.current_task()
        assert work is not None
        gone: asyncio.Future[Any] | None = scope.get("gone")
        watch: asyncio.Future[Any] | None = None

        async def watched() -> Message:
            nonlocal watch
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                watch = gone or asyncio.ensure_future(receive())
                watch.add_done_callback(cancel)
            return message

        def cancel(watch: asyncio.Future[Any]) -> None:
            if not watch.cancelled():
                work.cancel()

        def unwatch() -> None:
            if watch is not None:
                watch.remove_done_callback(cancel)
                if watch is not gone:
                    watch.cancel()

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                return await send(message)  # too little to wait for anybody
            if not message.get("more_body", False):
                unwatch()
            try:
                async with asyncio.timeout(self.send_timeout_s):
                    await send(message)
            except TimeoutError:
                self.metrics.client_gone("response")
                await drop(scope, receive)
                raise ClientGone from None

        try:
            await self.app(scope, watched, sent)
        except ClientDisconnect:
            self.metrics.client_gone("body")
            raise ClientGone from None
        except asyncio.CancelledError:
            if watch is None or watch.cancelled() or not watch.done() or work.uncancel() > 0:
                raise
            raise ClientGone from None
        finally:
            unwatch()


async def drop(scope: Scope, receive: Receive) -> None:
    """Closes the connection, with all that is unsent, where the server lets us."""
    if "abort" in scope:
        scope["abort"]()
        await receive()
