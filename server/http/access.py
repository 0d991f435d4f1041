"""What routes depend on before they read anything: a key, and room for work."""

from hashlib import sha256
from hmac import compare_digest
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from server.errors import Draining, Forbidden, Overloaded, Unauthenticated
from server.http.state import state_of
from server.telemetry.metrics import SHED_REASONS

bearer = HTTPBearer(auto_error=False, description="Needed where the server has keys set.")
Key = Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]


async def known(request: Request, key: Key) -> None:
    """For whatever is about models: any caller where no keys are set, else one of theirs."""
    check(key, state_of(request).settings.api_key_hashes)


async def trusted(request: Request, key: Key) -> None:
    """For management, which has keys of its own. With keys for inference alone it is off.

    A browser sends what a page of another origin asks for before it knows whether the page may:
    without keys nothing else would stop it.
    """
    state = state_of(request)
    settings, origin = state.settings, request.headers.get("origin")
    if settings.api_key_hashes and not settings.management_key_hashes:
        raise Forbidden("the server has no management key")
    check(key, settings.management_key_hashes)
    own = request.headers.get("host")
    if (
        origin is not None
        and origin not in settings.cors_origins
        and urlsplit(origin).netloc != own
    ):
        raise Forbidden("pages of other origins may not manage models")
    state.gate.check_open()


async def admitted(request: Request, key: Key) -> None:
    """For routes that do work: as known, and refused where there is too much of it."""
    await known(request, key)
    state = state_of(request)
    try:
        state.gate.check()
    except (Draining, Overloaded) as error:
        state.metrics.shed(SHED_REASONS[type(error)], 1)
        raise


def check(key: HTTPAuthorizationCredentials | None, hashes: tuple[bytes, ...]) -> None:
    """Raises Unauthenticated unless the key is one of those, or there are none.

    All are compared, each in constant time. SHA-256 is enough for keys that nobody could guess.
    """
    if not hashes:
        return
    digest = sha256(key.credentials.encode() if key else b"").digest()
    if sum(compare_digest(digest, known) for known in hashes) == 0:
        raise Unauthenticated("a key of this server is needed: Authorization: Bearer KEY")
