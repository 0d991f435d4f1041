"""What is asked before a request is read at all."""

from server.errors import Draining, Overloaded

FEWEST = 4
"""So many requests are let in however great the load is."""
NARROWED, WIDENED = 1.0, 0.25
"""By how many requests a refusal narrows the gate, and an answer widens it: of those let in, one in
five is refused, which is how the gate knows that it is narrow enough."""


class Gate:
    """Lets in `max_requests` requests for work at once, and none while draining.

    `num_requests` are in progress. Where the scheduler refuses requests for lack of time, fewer are
    let in of those that are in at least as great a hurry.
    """

    def __init__(self, max_requests: int) -> None:
        self.max_requests, self.num_requests, self.is_draining = max_requests, 0, False
        self._width, self._hurry_s = float(max_requests), 0.0

    def check_open(self) -> None:
        """Raises Draining once the server is ending; any thread may ask."""
        if self.is_draining:
            raise Draining("the server is ending")

    def check(self) -> None:
        """Raises Draining, or Overloaded where the request that asks is one too many."""
        self.check_open()
        if self.num_requests > self.max_requests:
            raise Overloaded(f"{self.max_requests} requests are in progress")

    def refused(self, budget_s: float | None) -> None:
        """Load was too high for a request with such a latency budget."""
        if budget_s is not None:
            self._hurry_s = max(self._hurry_s, budget_s)
            self._width = max(FEWEST, min(self._width, self.num_requests) - NARROWED)

    def answered(self) -> None:
        """A request was answered."""
        self._width += WIDENED
        if self._width >= self.max_requests:
            self._width, self._hurry_s = float(self.max_requests), 0.0

    def is_full(self, num_inside: int) -> bool:
        """Whether load is too high for one more that is in a hurry."""
        return num_inside >= self._width

    def is_in_a_hurry(self, budget_s: float) -> bool:
        """Whether requests with such a budget have been refused since the gate was wide open."""
        return budget_s <= self._hurry_s
