"""Checks before a body is read: a key, and room for work."""

from hashlib import sha256
from hmac import compare_digest
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from server.errors import Draining, Forbidden, Overloaded, Unauthenticated
from server.service import Service, service_of
from server.telemetry.requests import shed_reason

documented = HTTPBearer(auto_error=False, description="Needed where the server has keys set.")
Key = Annotated[HTTPAuthorizationCredentials | None, Security(documented)]
"""For the OpenAPI document; what is checked is the header itself."""


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
    """For requests that do work: a key, then room. Raises Unauthenticated, Draining, Overloaded."""
    check_key(authorization, service.settings.access.api_key_hashes)
    try:
        service.gate.check()
    except (Draining, Overloaded) as error:
        service.metrics.shed(shed_reason(error), 1)
        raise


async def known(request: Request, _: Key) -> None:
    """For routes about models: any caller where no keys are set, else one with such a key."""
    hashes = service_of(request).settings.access.api_key_hashes
    check_key(request.headers.get("authorization", ""), hashes)


async def trusted(request: Request, _: Key) -> None:
    """For management, which has keys of its own. With keys for inference alone it is off.

    A browser sends what a page of another origin asks for before it knows whether the page may:
    without keys nothing else would stop it.
    """
    service, origin = service_of(request), request.headers.get("origin")
    check_trusted(service, request.headers.get("authorization", ""))
    own = request.headers.get("host")
    if (
        origin is not None
        and origin not in service.settings.access.cors_origins
        and urlsplit(origin).netloc != own
    ):
        raise Forbidden("pages of other origins may not manage models")
    service.gate.check_open()


def check_trusted(service: Service, authorization: str) -> None:
    """Raises Forbidden where no key is for management, Unauthenticated without such a key."""
    settings = service.settings.access
    if settings.api_key_hashes and not settings.management_key_hashes:
        raise Forbidden("the server has no management key")
    check_key(authorization, settings.management_key_hashes)
