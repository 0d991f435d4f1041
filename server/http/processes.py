"""Several servers on one port: the HTTP side of one is a single Python thread."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType

from models.bundle.errors import UserError
from server.settings import Settings

logger = logging.getLogger("offramp.processes")
Serve = Callable[[Settings, int], None]


class Processes:
    """Runs `serve(settings, number)` in as many processes as the settings say, until told to end.

    SIGTERM and SIGINT are passed on. A process that is killed is replaced; one that ends by itself,
    for a bundle that cannot be served, say, ends the others.
    """

    def __init__(self, settings: Settings, serve: Serve) -> None:
        self._settings, self._serve = settings, serve
        self._context = multiprocessing.get_context("spawn")
        self._members: dict[int, BaseProcess] = {}
        self._is_ending = False

    def run(self) -> int:
        """The status to exit with: 0 where every process ended as it was told to."""
        for sig in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sig, self._pass_on)
        for number in range(self._settings.processes):
            self._start(number)
        status = 0
        while self._members:
            wait([process.sentinel for process in self._members.values()])
            for number, process in tuple(self._members.items()):
                if process.exitcode is None:
                    continue
                del self._members[number]
                if process.exitcode < 0 and not self._is_ending:
                    logger.error("process %d was killed by signal %d", number, -process.exitcode)
                    self._start(number)
                else:
                    status = status or max(0, process.exitcode)
                    if not self._is_ending:
                        self._pass_on(signal.SIGTERM, None)
        return status

    def _start(self, number: int) -> None:
        process = self._context.Process(
            target=member, args=(self._serve, self._settings, number), name=f"offramp-{number}"
        )
        self._members[number] = process
        process.start()
        if self._is_ending:  # a signal came meanwhile
            process.terminate()

    def _pass_on(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """A second signal, too: it forces an end."""
        self._is_ending = True
        for process in self._members.values():
            if process.pid is not None:
                os.kill(process.pid, sig)


def member(serve: Serve, settings: Settings, number: int) -> None:
    """One of the processes, in a group of its own: a terminal's Ctrl-C comes through the first."""
    os.setpgrp()
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        serve(settings, number)
    except UserError as error:
        sys.exit(f"error: {error}")


def end_with_parent() -> None:
    """Where the first process is killed nobody would tell the others."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
