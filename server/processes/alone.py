"""A server of one process, and what every process of a larger one begins with."""

import gc
import signal
import socket
import sys

from server.app import create_app, load_catalog
from server.http.listener import Listener
from server.http.ports import listen
from server.settings import Settings
from server.telemetry.logs import configure_logs
from server.telemetry.metrics import Metrics


def serve(settings: Settings, sockets: list[socket.socket]) -> None:
    """Loads every bundle, then serves on the sockets until SIGTERM or Ctrl-C."""
    begin(settings)
    metrics = Metrics()
    app = create_app(settings, load_catalog(settings, metrics), metrics)
    settle()
    listen(sockets)
    Listener(app, settings).run(sockets)


def begin(settings: Settings) -> None:
    """Sets up logs, and ends with status 0 on SIGTERM or Ctrl-C while models load."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    configure_logs(access=settings.telemetry.access_log)


def settle() -> None:
    """Leaves loaded objects out of garbage collection, which would stop every thread for 0.1 s."""
    gc.collect()
    gc.freeze()
