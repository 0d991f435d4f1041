"""What is asked before a request is read at all."""

from server.errors import Overloaded


class Gate:
    """Lets in `max_requests` requests for work at once. `num_requests` are in progress."""

    def __init__(self, max_requests: int) -> None:
        self.max_requests, self.num_requests = max_requests, 0

    def check(self) -> None:
        """Raises Overloaded where the request that asks is one too many."""
        if self.num_requests > self.max_requests:
            raise Overloaded(f"{self.max_requests} requests are in progress")
