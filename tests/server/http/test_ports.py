"""The sockets that a server listens on, and what keeps it from them."""

import socket
from collections.abc import Callable

import pytest

from server.http.ports import bound, reserved, shared
from server.settings import SettingsError


@pytest.mark.parametrize("host", ["127..0.1", "a" * 64])
def test_a_host_that_no_name_server_can_know_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match=f"cannot listen on {host}: it is no name of a host"):
        bound(host, 0)


@pytest.mark.parametrize(
    ("take", "flag"), [(bound, "--port"), (reserved, "--grpc-port"), (shared, "--grpc-port")]
)
def test_a_port_that_is_taken_has_an_option_that_takes_another(
    take: Callable[[str, int], list[socket.socket]], flag: str
) -> None:
    said = f"in use; {flag} takes another"
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(SettingsError, match=said),
    ):
        take("127.0.0.1", other.getsockname()[1])
