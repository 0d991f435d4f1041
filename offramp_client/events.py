"""Server-sent events of a streamed answer."""

from dataclasses import dataclass

from httpx_sse import ServerSentEvent

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


def event_of(sent: ServerSentEvent) -> Event | None:
    """None for events of a later server; raises OfframpError where the server says an error."""
    match sent.event:
        case "exit":
            return Exit(sent.json())
        case "final":
            return Final(answers_of(sent.json()))
        case "error":
            raise OfframpError(sent.json())
    return None
