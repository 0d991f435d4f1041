"""Where requests go, and whether anybody answers there."""

import json
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from string import punctuation
from typing import Any
from urllib.parse import quote, urlsplit

from load.generator import Body
from models.bundle.errors import UserError

ROUTE = "/v1/classify"


def route(url: str, budget_ms: float | None) -> str:
    """The URL that requests are sent to: /v1/classify where none is given, with the budget.

    Blanks and characters beyond ASCII are written as browsers do.
    """
    if not is_http(url):
        raise UserError(f"{url!r} is not an http:// URL")
    parts = urlsplit(url)
    path, query = (quote(part, safe=punctuation) for part in (parts.path, parts.query))
    parts = parts._replace(path=path, query=query)
    if parts.path in ("", "/"):
        parts = parts._replace(path=ROUTE)
    if budget_ms is not None:
        budget = f"latency_budget_ms={budget_ms:g}"
        parts = parts._replace(query=f"{parts.query}&{budget}" if parts.query else budget)
    return parts.geturl()


def is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bad port, or half an IPv6 address
        return False


def header(text: str) -> tuple[str, str]:
    """The name and value of NAME: VALUE; raises UserError for what no request can have."""
    name, colon, value = (part.strip() for part in text.partition(":"))
    if not (name and colon and text.isascii() and text.isprintable()):
        raise UserError(f"{text!r} is not a header, NAME: VALUE in ASCII")
    return name, value


def ask_once(url: str, body: Body, headers: Sequence[tuple[str, str]]) -> None:
    """Raises UserError where the server does not answer, or with anything but a JSON object."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=30)
    try:
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request(
            "POST", target, body.content, {**dict(headers), "Content-Type": body.kind}
        )
        response = connection.getresponse()
        said = response.read().decode(errors="replace")
    except (OSError, HTTPException) as error:
        raise UserError(f"{url} does not answer: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise UserError(f"{url} answers {response.status}: {detail(said)}")
    if object_of(said) is None:
        raise UserError(f"{url} answers with something else than a JSON object")


def detail(said: str) -> str:
    """The reason that the body of an error gives, under `/v1` or `/v2`; else the body."""
    document = object_of(said) or {}
    return str(document.get("detail") or document.get("error") or said)


def object_of(said: str) -> dict[str, Any] | None:
    """The JSON object that a text is, if it is one."""
    try:
        found = json.loads(said)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
