"""Log lines as JSON objects, one per line, each with the request it belongs to."""

import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from random import getrandbits

import orjson

ACCESS_LOGGER = "offramp.access"
access_logger = logging.getLogger(ACCESS_LOGGER)
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def id_of(given: str | None) -> str:
    """The client's own request id where it is sane, else a new one."""
    if given is not None and SANE_ID.fullmatch(given):
        return given
    return f"{getrandbits(128):032x}"  # nothing hangs on its being hard to guess


class JsonLines(logging.Formatter):
    """Every record as one line; what `extra={"fields": ...}` holds goes beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": stamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if (current := request_id.get()) is not None:
            line["request_id"] = current
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


def configure_logs(*, access: bool) -> None:
    """Sends every logger's lines to standard error, those of single requests only with `access`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger(ACCESS_LOGGER).disabled = not access


def is_logged() -> bool:
    """Whether requests are logged, a line each."""
    return access_logger.isEnabledFor(logging.INFO)


def log_request(
    at_s: float, method: str, route: str, code: int, seconds: float, exits: list[int], own_id: str
) -> None:
    """One line, with nothing in it that a client wrote but its request id; `at_s` is Unix time."""
    fields = {
        "time": stamp(at_s),
        "request_id": own_id,
        "method": method if method in METHODS else "other",
        "route": route,
        "code": code,
        "duration_ms": round(1000 * seconds, 3),
        "exits": exits,
    }
    access_logger.info("request", extra={"fields": fields})


def stamp(at_s: float) -> str:
    """Unix time in ISO 8601, to the millisecond."""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")
