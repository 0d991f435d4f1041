"""What the event loop takes beside batches: learned while it runs, the same for every model."""

from models.bundle.costs import Expectation

DELIVERY_S = 0.001
"""Expected time from an outcome to its response, until it is known."""
DELIVERY_FALL = 0.005
"""Its high quantile decides which answers are late: with the costs' 0.02 twice as many were, at the
capacity of two cores."""
DECAY = 0.9
"""Of the weight of a turn per turn after it."""
UNSEEN = 1.0
"""What a budget keeps for what the server does not see, in multiples of what requests wait for the
loop: where that is busy, network stack, proxies and clients wait for cores as well."""
HOLD_SHARE = 0.25
"""The share of the tightest latency budget of late that a batch may hold up the event loop."""
LOOSEST_S = 1.0
"""What a request without a latency budget counts as there; longer budgets count as much."""
RELAX = 0.005
"""How fast the tightest budget of late follows looser ones: by this share of the gap a request."""
UP, DOWN = 0.2, 0.02
"""How fast the wait for the loop follows a longer one, and a shorter one."""


class Pace:
    """How long a response takes after its outcome, and how much the edges stretch the batches.

    While inline batches wait, the loop also reads requests and writes responses: `stretch` is the
    time that passes per second of batches, 1 where nothing comes between them.
    """

    def __init__(self) -> None:
        self._delivery = Expectation(DELIVERY_S, DELIVERY_FALL)
        self._elapsed_s = self._batch_s = self._lag_s = 0.0
        self._tightest_s = LOOSEST_S

    @property
    def delivery_s(self) -> float:
        return self._delivery.value

    @property
    def stretch(self) -> float:
        return max(1.0, self._elapsed_s / self._batch_s) if self._batch_s > 0 else 1.0

    @property
    def unseen_s(self) -> float:
        """What a budget keeps for the way between client and server; nothing on an idle server."""
        return UNSEEN * self._lag_s

    @property
    def hold_s(self) -> float:
        """How long a batch may hold up the event loop: requests wait unread meanwhile."""
        return HOLD_SHARE * self._tightest_s

    def asked(self, budget_s: float) -> None:
        """A request came with a latency budget that an idle server could meet."""
        gap_s = min(budget_s, LOOSEST_S) - self._tightest_s
        self._tightest_s += gap_s if gap_s < 0 else RELAX * gap_s

    def delivered(self, seconds: float) -> None:
        """A response left so long after its last outcome was due or known."""
        self._delivery.observe(seconds)

    def turned(self, elapsed_s: float, batch_s: float) -> None:
        """From one inline batch to the next it took `elapsed_s`, of which the batch `batch_s`."""
        self._elapsed_s = DECAY * self._elapsed_s + elapsed_s
        self._batch_s = DECAY * self._batch_s + batch_s

    def waited(self, lag_s: float) -> None:
        """A request had waited so long for the loop."""
        gap_s = lag_s - self._lag_s
        self._lag_s += (UP if gap_s > 0 else DOWN) * gap_s
