import pytest

from load.target import header, route
from models.bundle.errors import UserError


def test_the_route_takes_the_budget() -> None:
    assert route("http://a:1", None) == "http://a:1/v1/classify"
    assert route("http://a:1/?model=x", 25) == "http://a:1/v1/classify?model=x&latency_budget_ms=25"
    assert route("http://a/other", 2.5) == "http://a/other?latency_budget_ms=2.5"
    for url in ("https://a", "http://[::1", "http://a:x", "http://a:70000", "http://:80"):
        with pytest.raises(UserError, match="is not an http:// URL"):
            route(url, None)


def test_a_header_has_a_name_and_a_value() -> None:
    assert header("Authorization: Bearer a:b") == ("Authorization", "Bearer a:b")
    with pytest.raises(UserError, match="is not a header"):
        header("Bearer")
