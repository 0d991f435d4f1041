"""What became of the requests of one open loop."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from statistics import fmean, median

import numpy as np

from load.generator import Shot

REFUSALS = (503, 429, 408)
"""uvicorn's and Offramp's, mosec's for a full queue, and mosec's for a time that is up."""
NAN = float("nan")


@dataclass(frozen=True)
class Outcomes:
    """Requests and answers per second, shares of all requests sent, and what answers were like.

    Good answers came in time by the client's clock, from when a request was due; right ones are
    good answers with the right label. A number is nan where there are no answers to take it from,
    or no labels.
    """

    offered: float
    good: float
    right: float
    late: float
    refused: float
    failed: float
    p50_ms: float
    p99_ms: float
    mean_exit: float
    accuracy: float
    lag_ms: float

    def cells(self) -> list[str]:
        """A cell for each of HEADINGS; a dash where there is no number."""
        cells = [
            f"{self.offered:.0f}", f"{self.good:.0f}", f"{self.right:.0f}",
            f"{100 * self.late:.2f}", f"{100 * self.refused:.1f}", f"{100 * self.failed:.2f}",
            f"{self.p50_ms:.1f}", f"{self.p99_ms:.1f}", f"{self.mean_exit:.2f}",
            f"{100 * self.accuracy:.1f}",
        ]  # fmt: skip
        return [cell.replace("nan", "-") for cell in cells]


HEADINGS = (
    "offered/s", "good/s", "right in time/s", "late %", "refused %", "failed %", "p50 ms",
    "p99 ms", "mean exit", "top-1 %",
)  # fmt: skip


def outcomes(
    shots: Sequence[Shot],
    seconds: float,
    budget_ms: float | None,
    is_right: Callable[[Shot], bool] | None,
) -> Outcomes:
    """Sums up one run of some seconds; without a budget every answer is in time."""
    answered = [shot for shot in shots if shot.status == 200]
    good = [s for s in answered if budget_ms is None or 1000 * s.latency_s <= budget_ms]
    num_refused = sum(shot.status in REFUSALS for shot in shots)
    exits = [shot.answer["exit"] for shot in answered if "exit" in shot.answer]
    lags = sorted(shot.sent_s - shot.due_s for shot in shots)
    return Outcomes(
        offered=len(shots) / seconds,
        good=len(good) / seconds,
        right=NAN if is_right is None else sum(map(is_right, good)) / seconds,
        late=(len(answered) - len(good)) / len(shots),
        refused=num_refused / len(shots),
        failed=1 - (len(answered) + num_refused) / len(shots),
        p50_ms=latency_ms(shots, 0.5),
        p99_ms=latency_ms(shots, 0.99),
        mean_exit=fmean(exits) if exits else NAN,
        accuracy=NAN if is_right is None or not answered else fmean(map(is_right, answered)),
        lag_ms=1000 * lags[int(0.99 * len(lags))],
    )


def latency_ms(shots: Sequence[Shot], quantile: float) -> float:
    """A quantile of the latencies of those answered, nan without any."""
    latencies = [shot.latency_s for shot in shots if shot.status == 200]
    return 1000 * float(np.quantile(latencies, quantile)) if latencies else NAN


def medians(rounds: Sequence[Outcomes]) -> Outcomes:
    """Each number's median."""
    return Outcomes(*map(median, zip(*map(astuple, rounds), strict=True)))
