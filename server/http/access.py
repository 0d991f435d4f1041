"""Checks before a body is read: a key, and room for work."""

import re
from hashlib import sha256
from hmac import compare_digest
from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from server.errors import Draining, Forbidden, TooManyRequests, Unauthenticated
from server.service import Service, service_of
from server.settings import Access
from server.telemetry.requests import shed_reason

documented = HTTPBearer(auto_error=False, description="Needed where the server has keys set.")
Key = Annotated[HTTPAuthorizationCredentials | None, Security(documented)]
"""For the OpenAPI document; what is checked is the header itself."""
FIXED_HOST = re.compile(r"(localhost|[\d.]+|\[[\da-f:.]+\])(:\d+)?", re.IGNORECASE)
"""No name server decides where these lead."""


def check_key(authorization: str, hashes: tuple[bytes, ...]) -> None:
    """Raises Unauthenticated unless the header has one of the keys, or there are none.

    All are compared, each in constant time. SHA-256 is enough for keys that cannot be guessed.
    """
    if not hashes:
        return
    scheme, _, key = authorization.partition(" ")
    digest = sha256(key.strip().encode() if scheme.lower() == "bearer" else b"").digest()
    if sum(compare_digest(digest, known) for known in hashes) == 0:
        raise Unauthenticated("a key of this server is needed: Authorization: Bearer KEY")


def check_work(service: Service, authorization: str) -> None:
    """For work: a key, then room. Raises Unauthenticated, Draining or TooManyRequests."""
    check_key(authorization, service.settings.access.api_key_hashes)
    try:
        service.gate.check()
    except (Draining, TooManyRequests) as error:
        service.metrics.shed(shed_reason(error), 1)
        raise


async def known(request: Request, _: Key) -> None:
    """For routes about models: any caller where no keys are set, else one with such a key."""
    hashes = service_of(request).settings.access.api_key_hashes
    check_key(authorization_of(request), hashes)


async def trusted(request: Request, _: Key) -> None:
    """For management, which has keys of its own. With keys for inference alone it is off.

    A browser sends what a page of another origin asks for before it knows whether the page may:
    without keys nothing else would stop it.
    """
    service = service_of(request)
    check_trusted(service, authorization_of(request))
    if (origin := request.headers.get("origin")) is not None:
        check_origin(origin, request.headers.get("host", ""), service.settings.access)
    service.gate.check_open()


def authorization_of(request: Request) -> str:
    """As the edge has it: more than one is none of the keys."""
    return ", ".join(request.headers.getlist("authorization"))


def check_origin(origin: str, host: str, settings: Access) -> None:
    """Raises Forbidden unless a page of this origin may manage models of the server at `host`.

    Any name may be made to lead to this server, and its pages are then of the server's own origin
    (DNS rebinding): where no key is asked for, a name must be among the settings' origins.
    """
    if origin in settings.cors_origins:
        return
    if origin.partition("://")[2] != host:
        raise Forbidden("pages of other origins may not manage models")
    if not settings.management_key_hashes and FIXED_HOST.fullmatch(host) is None:
        raise Forbidden(
            "without a management key, pages may manage models at an IP address or localhost,"
            " or if OFFRAMP_CORS_ORIGINS names their origin"
        )


def check_trusted(service: Service, authorization: str) -> None:
    """Raises Forbidden where no key is for management, Unauthenticated without such a key."""
    settings = service.settings.access
    if settings.api_key_hashes and not settings.management_key_hashes:
        raise Forbidden("the server has no management key")
    check_key(authorization, settings.management_key_hashes)
