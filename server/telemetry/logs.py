"""Log lines, each with the request it belongs to: JSON objects, or text for a terminal."""

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
            "message": encodable(record.getMessage()),
        }
        if (current := request_id.get()) is not None:
            line["request_id"] = current
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = encodable(self.formatException(record.exc_info))
        return orjson.dumps(line).decode()


class ReadableLines(logging.Formatter):
    """Every record for a person: local time, level, message, then fields as `name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        line = f"{time} {record.levelname.lower():7} {clean(record.getMessage())}"
        fields = {"request_id": request_id.get()} | getattr(record, "fields", {})
        shown = (
            f"{name}={clean(value)}"
            for name, value in fields.items()
            if name != "time" and value is not None
        )
        line = " ".join([line, *shown])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def encodable(text: str) -> str:
    """With escapes for what UTF-8 lacks: a file's name may have any bytes."""
    return text.encode(errors="backslashreplace").decode()


def clean(value: object) -> str:
    """A value as one line, in which no control character reaches a terminal."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in str(value))


def configure_logs(*, access: bool) -> None:
    """Sends every logger's lines to standard error, those of single requests only with `access`.

    A terminal gets readable lines, anything else JSON.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ReadableLines() if sys.stderr.isatty() else JsonLines())
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
