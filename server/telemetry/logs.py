"""Log lines as JSON objects, one per line, each with the request it belongs to."""

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from random import getrandbits

ACCESS_LOGGER = "offramp.access"
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
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
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
        return json.dumps(line)


def configure_logs(*, access: bool) -> None:
    """Sends every logger's lines to standard error, those of single requests only with `access`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger(ACCESS_LOGGER).disabled = not access
