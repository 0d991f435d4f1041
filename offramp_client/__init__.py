"""A typed client of an Offramp server: sync and async, with streaming. It needs httpx alone."""

from offramp_client.answers import Classification, ExitSaid, Options
from offramp_client.client import AsyncClient, Client
from offramp_client.errors import OfframpError
from offramp_client.events import Event, Exit, Final

__all__ = [
    "AsyncClient",
    "Classification",
    "Client",
    "Event",
    "Exit",
    "ExitSaid",
    "Final",
    "OfframpError",
    "Options",
]
