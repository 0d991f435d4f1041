"""Server-sent events of a streamed answer."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import httpx
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


def events_of(stream: Iterator[ServerSentEvent]) -> Iterator[Event]:
    """Raises httpx.RemoteProtocolError where the stream ends before the answers."""
    is_whole = False
    for sent in stream:
        if (event := event_of(sent)) is not None:
            is_whole = isinstance(event, Final)
            yield event
    check_end(is_whole)


async def events_as_they_come(stream: AsyncIterator[ServerSentEvent]) -> AsyncIterator[Event]:
    """As events_of."""
    is_whole = False
    async for sent in stream:
        if (event := event_of(sent)) is not None:
            is_whole = isinstance(event, Final)
            yield event
    check_end(is_whole)


def check_end(is_whole: bool) -> None:
    if not is_whole:
        raise httpx.RemoteProtocolError("the stream ended before its final event")
