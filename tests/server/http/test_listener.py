"""The listener: how long connections may be idle, and what a server that ends still does."""

from models.bundle.bundle import Bundle
from server.service import Service
from tests.server.conftest import made_profile, served
from tests.server.live import listening

PROXY_S = 60
"""How long ALB and nginx's upstreams keep idle connections by default."""


def test_what_is_not_yet_counted_is_counted_before_the_end(digits_bundle: Bundle) -> None:
    counted: list[int] = []
    with listening(served(digits_bundle, made_profile(per_row_s=0.0005))) as (server, _):
        service: Service = server.config.loaded_app.state.service
        service.metrics.ledger.write(counted.append, 1)  # in a thread without a loop: no timer
        assert counted == []
    assert counted == [1]


def test_idle_connections_outlive_those_of_proxies(digits_bundle: Bundle) -> None:
    """Or a proxy sends requests into connections that are just closing."""
    with listening(served(digits_bundle, made_profile(per_row_s=0.0005))) as (server, _):
        assert server.config.timeout_keep_alive > PROXY_S
