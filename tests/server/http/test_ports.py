"""The sockets that a server listens on, and what keeps it from them."""

import pytest

from server.http.ports import bound
from server.settings import SettingsError


@pytest.mark.parametrize("host", ["127..0.1", "a" * 64])
def test_a_host_that_no_name_server_can_know_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match=f"cannot listen on {host}: it is no name of a host"):
        bound(host, 0)
