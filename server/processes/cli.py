"""`offramp serve`."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import import_module

from models.bundle.files import allow_files
from server.http.ports import bound, reserved
from server.processes.choice import num_processes
from server.processes.parent import Parent
from server.settings import Settings, load_settings, variable
from server.telemetry.logs import configure_logs
from server.zoo.directory import skipped, tell_skipped


def serve(options: Mapping[str, str]) -> None:
    """Takes the port, then loads every bundle and serves until told to end.

    An option is a variable of this run, which every process of the server reads.
    """
    os.environ.update({variable(name): text for name, text in options.items()})
    settings = load_settings()
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup ignores it
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    allow_files()
    sockets = bound(settings.address.host, settings.address.port)
    configure_logs(access=settings.telemetry.access_log)
    tell_skipped(skipped(settings.models.zoo))
    with ExitStack() as kept:
        if settings.address.grpc_port is not None:
            for sock in reserved(settings.address.host, settings.address.grpc_port):
                kept.enter_context(sock)
        run(settings, sockets)


def run(settings: Settings, sockets: list[socket.socket]) -> None:
    num = num_processes(settings)
    if num == 1:
        # with several, the parent loads neither the application nor onnxruntime
        import_module("server.processes.alone").serve(settings, sockets)
    else:
        sys.exit(asyncio.run(Parent(settings, num, sockets).run()))
