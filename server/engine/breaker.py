"""Keeps a graph that fails again and again out of use for a while. Pure: the time is given."""

from dataclasses import dataclass

MAX_FAILURES = 3
RETRY_S = 5.0


@dataclass(slots=True)
class Breaker:
    """Opens after `MAX_FAILURES` failures in a row; after `RETRY_S` the next batch tries again."""

    num_failures: int = 0
    retry_at: float = 0.0

    @property
    def is_tripped(self) -> bool:
        """Whether it has opened, and no run has succeeded since."""
        return self.num_failures >= MAX_FAILURES

    def is_open(self, now: float) -> bool:
        return self.is_tripped and now < self.retry_at

    def failed(self, now: float) -> None:
        self.num_failures += 1
        self.retry_at = now + RETRY_S

    def succeeded(self) -> None:
        self.num_failures = 0
