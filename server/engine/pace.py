"""The time that requests take beside their batches, learned while the server runs."""

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
DECODE_S = 0.0001
"""Expected time to decode an image, beside what its pixels take."""
DECODE_PIXEL_S = {
    "PNG": 30e-9,
    "WEBP": 17e-9,
    "JPEG/1": 14e-9,
    "JPEG/2": 5e-9,
    "JPEG/4": 3e-9,
    "JPEG/8": 2e-9,
}
"""Expected time per pixel of the header, until it is known: that of photos of 3 million pixels on a
slow core. JPEG/8 is decoded at an eighth of its size."""
TELLING_PIXELS = 65_536
"""Smaller images say little of what a pixel takes."""


class Pace:
    """How long a response takes after its outcome, and how much the edges stretch the batches.

    While inline batches wait, the loop also reads requests and writes responses: `stretch` is the
    time that passes per second of batches, 1 where nothing comes between them.
    """

    def __init__(self) -> None:
        self._delivery = Expectation(DELIVERY_S, DELIVERY_FALL)
        self._elapsed_s = self._batch_s = self._lag_s = 0.0
        self._tightest_s = LOOSEST_S
        self.decoding = Decoding()

    @property
    def delivery_s(self) -> float:
        return self._delivery.value

    @property
    def stretch(self) -> float:
        return max(1.0, self._elapsed_s / self._batch_s) if self._batch_s > 0 else 1.0

    @property
    def unseen_s(self) -> float:
        """The part of a budget kept for the network; nothing on an idle server."""
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
        """Notes the time from a request's last outcome to its response."""
        self._delivery.observe(seconds)

    def turned(self, elapsed_s: float, batch_s: float) -> None:
        """Notes the time from one inline batch to the next, and the batch's part of it."""
        self._elapsed_s = DECAY * self._elapsed_s + elapsed_s
        self._batch_s = DECAY * self._batch_s + batch_s

    def waited(self, lag_s: float) -> None:
        """Notes how long a request had waited for the loop."""
        gap_s = lag_s - self._lag_s
        self._lag_s += (UP if gap_s > 0 else DOWN) * gap_s


class Decoding:
    """The time to decode an image, from the kind and the pixels in its header.

    Kinds are those of `DECODE_PIXEL_S`. Any thread may call it: if two call it at once, one time
    may be lost, and the next image makes up for it.
    """

    def __init__(self) -> None:
        self._pixel_s = {kind: Expectation(seconds) for kind, seconds in DECODE_PIXEL_S.items()}

    def expected_s(self, kind: str, num_pixels: int) -> float:
        return DECODE_S + num_pixels * self._pixel_s[kind].value

    def took(self, kind: str, num_pixels: int, seconds: float) -> None:
        """Learns from an image that was decoded."""
        if num_pixels >= TELLING_PIXELS:
            self._pixel_s[kind].observe((seconds - DECODE_S) / num_pixels)
