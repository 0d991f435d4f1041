"""The parent where the system gives it no process."""

import asyncio
import errno
import os

import pytest

from server.processes import parent
from server.processes.parent import Parent
from server.settings import load_settings
from server.telemetry.memory import Head


class Refusing:
    """Starts no process; the server is told to end at the third time."""

    def __init__(self, parent: Parent) -> None:
        self.parent, self.num_tries = parent, 0

    async def __call__(self, *_: object, **__: object) -> None:
        self.num_tries += 1
        self.parent._is_ending = self.num_tries == 3
        raise BlockingIOError(errno.EAGAIN, "no more processes")


def refused(parent: Parent, monkeypatch: pytest.MonkeyPatch) -> Refusing:
    refusing = Refusing(parent)
    monkeypatch.setattr(asyncio, "create_subprocess_exec", refusing)
    return refusing


def test_a_process_that_cannot_be_started_again_is_tried_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parent, "FIRST_PAUSE_S", 0.001)
    opened = Parent(load_settings(), 1, [])
    opened._is_open = True
    refusing, (member,) = refused(opened, monkeypatch), opened._children
    num_files = len(os.listdir("/proc/self/fd"))
    asyncio.run(opened._tend(member))
    assert refusing.num_tries == 3
    assert member.head[Head.RESTARTS] == 2
    assert "did not start: [Errno 11] no more processes" in caplog.text
    assert "it is replaced in 0.004 s" in caplog.text
    assert len(os.listdir("/proc/self/fd")) <= num_files, "all channels are closed"


def test_a_server_whose_first_process_cannot_be_started_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starting = Parent(load_settings(), 2, [])
    refusing = refused(starting, monkeypatch)
    assert asyncio.run(asyncio.wait_for(starting.run(), 30)) == os.EX_OSERR
    assert refusing.num_tries == 1
    assert [list(member.left()) for member in starting._children] == [[], []]
