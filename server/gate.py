"""What is asked before a request is read at all."""

from server.errors import Draining, Overloaded


class Gate:
    """Lets in `max_requests` requests for work at once, and none while draining.

    `num_requests` are in progress.
    """

    def __init__(self, max_requests: int) -> None:
        self.max_requests, self.num_requests, self.is_draining = max_requests, 0, False

    def check(self) -> None:
        """Raises Draining, or Overloaded where the request that asks is one too many."""
        if self.is_draining:
            raise Draining("the server is ending")
        if self.num_requests > self.max_requests:
            raise Overloaded(f"{self.max_requests} requests are in progress")
