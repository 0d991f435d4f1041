"""The limit on open files."""

import os
import socket
from collections.abc import Iterator
from resource import RLIMIT_NOFILE, getrlimit, setrlimit

import pytest

from models.bundle.files import allow_files
from server.processes.member import Member
from server.telemetry.memory import Head, Memory


@pytest.fixture
def most() -> Iterator[int]:
    """How many files this process may open; its limit is set back in the end."""
    soft, most = getrlimit(RLIMIT_NOFILE)
    yield most
    setrlimit(RLIMIT_NOFILE, (soft, most))


def test_a_server_may_open_as_many_files_as_the_system_allows(most: int) -> None:
    setrlimit(RLIMIT_NOFILE, (most - 1, most))
    allow_files()
    assert getrlimit(RLIMIT_NOFILE) == (most, most)


def test_a_connection_that_no_file_is_left_for_is_counted_as_closed(most: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    with ours, theirs, socket.socket() as connection:
        for _ in range(2):
            socket.send_fds(ours, [b"4"], [connection.fileno()])
        member = Member.__new__(Member)
        member._channel, member._memory = theirs, Memory()
        next_file = os.dup(ours.fileno())
        os.close(next_file)
        setrlimit(RLIMIT_NOFILE, (next_file, most))
        member._take()
        assert member._memory.head[Head.CLOSED] == 2
