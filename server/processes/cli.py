"""`offramp serve`."""

import asyncio
import logging
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module

from server.http.ports import bound, reserved
from server.processes.choice import num_processes
from server.processes.parent import Parent
from server.settings import Settings, load_settings
from server.telemetry.logs import configure_logs
from server.zoo.directory import skipped

logger = logging.getLogger("offramp")


def serve(arguments: Sequence[str]) -> None:
    """Parses options and takes the port, then loads every bundle and serves until told to end."""
    settings = load_settings(arguments)
    sockets = bound(settings.host, settings.port)
    configure_logs(access=settings.access_log)
    for path in skipped(settings.zoo):
        logger.warning("skipped, since its name is not that of a bundle, NAME/VERSION: %s", path)
    with ExitStack() as kept:
        if settings.grpc_port is not None:
            for sock in reserved(settings.host, settings.grpc_port):
                kept.enter_context(sock)
        run(settings, arguments, sockets)


def run(settings: Settings, arguments: Sequence[str], sockets: list[socket.socket]) -> None:
    num = num_processes(settings)
    if num == 1:
        # with several, the parent loads neither the application nor onnxruntime
        import_module("server.processes.alone").serve(settings, sockets)
    else:
        sys.exit(asyncio.run(Parent(settings, num, arguments, sockets).run()))
