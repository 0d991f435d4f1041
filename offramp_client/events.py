"""Server-sent events of a streamed answer."""

import json
from dataclasses import dataclass
from typing import Any

from offramp_client.answers import Classification, ExitSaid, answers_of
from offramp_client.errors import OfframpError


@dataclass(frozen=True, slots=True)
class Exit:
    """One exit has been computed."""

    said: ExitSaid


@dataclass(frozen=True, slots=True)
class Final:
    """The answers, one for each row, as without streaming."""

    answers: list[Classification]


Event = Exit | Final


class EventParser:
    """Lines in, events out."""

    def __init__(self) -> None:
        self._fields: dict[str, str] = {}

    def feed(self, line: str) -> Event | None:
        """The event that ends with this line, if one does; raises OfframpError where it says so."""
        if line:
            name, _, value = line.partition(": ")
            self._fields[name] = value
            return None
        fields, self._fields = self._fields, {}
        data: Any = json.loads(fields.get("data", "null"))
        match fields.get("event"):
            case "exit":
                return Exit(data)
            case "final":
                return Final(answers_of(data))
            case "error":
                raise OfframpError(data)
        return None
