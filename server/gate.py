"""How many requests are in progress, and whether new work is still taken."""

from server.errors import Draining, TooManyRequests


class Gate:
    """Lets in `max_requests` requests for work at once, and none while draining."""

    def __init__(self, max_requests: int) -> None:
        self.max_requests, self.num_requests, self.is_draining = max_requests, 0, False

    def check_open(self) -> None:
        """Raises Draining once the server is ending; any thread may ask."""
        if self.is_draining:
            raise Draining("the server is ending")

    def check(self) -> None:
        """Raises Draining, or TooManyRequests where the request that asks is one too many."""
        self.check_open()
        if self.num_requests > self.max_requests:
            raise TooManyRequests(f"{self.max_requests} requests are in progress")
