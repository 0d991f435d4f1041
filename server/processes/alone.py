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
    """Ending as asked is no failure; this is for while models load."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    configure_logs(access=settings.telemetry.access_log)


def settle() -> None:
    """Keeps what is loaded out of the search for garbage, which stops every thread for 0.1 s."""
    gc.collect()
    gc.freeze()
