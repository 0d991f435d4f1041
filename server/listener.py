"""uvicorn, as this server runs it."""

import uvicorn
from fastapi import FastAPI

from server.protocol import Protocol
from server.settings import Settings


def listener(app: FastAPI, settings: Settings) -> uvicorn.Server:
    """A server of the application, not yet running."""
    limits = {"receive_timeout_s": settings.receive_timeout_s}
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            http=type("LimitedProtocol", (Protocol,), limits),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=settings.max_connections,
            timeout_keep_alive=settings.keep_alive_s,
            timeout_graceful_shutdown=settings.shutdown_grace_s,
        )
    )
