"""Requests that are refused unread, since one that asks for the same has just been refused.

Under overload most are of this kind, and what they cost is taken from those that are answered.
"""

from dataclasses import dataclass, field

from server.errors import Overloaded
from server.http.exchange import Exchange, Reply

Head = tuple[str, bytes, str]
MAX_KEPT = 256
"""How many heads are kept; clients send the same ones again and again."""


@dataclass(slots=True)
class Refusals:
    """The last refusal for want of time, its reply and its end, of every head that tells all.

    Where the body is one row, path, query and content type tell all that is asked for.
    """

    _kept: dict[Head, tuple[Overloaded, Reply, float]] = field(default_factory=dict)

    def note(self, exchange: Exchange, error: Overloaded, reply: Reply) -> None:
        """Keeps a refusal for as long as one that arrives later would be refused as well."""
        if error.late_s > 0 and exchange.service.refuses_unread:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[head_of(exchange)] = error, reply, exchange.arrival + error.late_s

    def again(self, exchange: Exchange) -> Reply | None:
        """The reply to a request that came too soon after one with the same head."""
        if not self._kept or (kept := self._kept.get(head_of(exchange))) is None:
            return None
        error, reply, end = kept
        if exchange.arrival >= end:
            del self._kept[head_of(exchange)]
            return None
        exchange.service.refused_again(error, exchange.lag_s)
        return reply


def head_of(exchange: Exchange) -> Head:
    scope = exchange.scope
    return scope["path"], scope["query_string"], exchange.header(b"content-type")
