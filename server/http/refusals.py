"""Requests that are refused unread, since one that asks for the same has just been refused.

Under overload most requests are refused, and each refusal takes time from the answers.
"""

from dataclasses import dataclass, field
from random import choice

from server.errors import Overloaded
from server.http.exchange import Exchange, Reply
from server.http.problems import for_each_wait

Head = tuple[str, bytes, str]
READ_FIRST = frozenset((b"expect", b"content-encoding", b"transfer-encoding"))
"""Headers of requests that are always read: the client waits for a word, or gets another error."""
MAX_KEPT = 256
"""How many heads are kept; clients send the same ones again and again."""
MAX_KEPT_S = 0.1
"""How long a refusal is kept at most: jobs may end earlier than expected, or lose their clients."""


@dataclass(slots=True)
class Refusals:
    """The last refusal for want of time, its replies and its end, of every head that tells all.

    Where the body is one image, path, query and content type tell all that is asked for. A refusal
    is kept without its traceback, which would hold on to the body.
    """

    _kept: dict[Head, tuple[Overloaded, tuple[Reply, ...], float]] = field(default_factory=dict)

    def note(self, exchange: Exchange, error: Overloaded, reply: Reply) -> None:
        """Keeps a refusal for as long as one that arrives later would be refused as well."""
        if error.late_s > 0 and exchange.service.refuses_unread:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            end = exchange.arrival + min(error.late_s, MAX_KEPT_S)
            kept = error.with_traceback(None), for_each_wait(reply), end
            self._kept[head_of(exchange)] = kept

    def again(self, exchange: Exchange) -> Reply | None:
        """The reply to a request that came too soon after one with the same head.

        A server with nothing else to do refuses no request. Each reply draws its own Retry-After.
        """
        if not self._kept or exchange.service.engine.in_flight() == 0:
            return None
        head = head_of(exchange)
        if (kept := self._kept.get(head)) is None or not may_stay_unread(exchange):
            return None
        error, replies, end = kept
        if exchange.arrival >= end:
            del self._kept[head]
            return None
        exchange.service.refused_again(error, exchange.lag_s)
        return choice(replies)


def may_stay_unread(exchange: Exchange) -> bool:
    """Whether the body can be left to the connection, which reads past it."""
    headers = exchange.headers
    num_bytes = headers.get(b"content-length")
    return (
        headers.keys().isdisjoint(READ_FIRST)
        and num_bytes is not None
        and int(num_bytes) <= exchange.service.settings.limits.max_body_bytes
    )


def head_of(exchange: Exchange) -> Head:
    scope = exchange.scope
    return scope["path"], scope["query_string"], exchange.header(b"content-type")
