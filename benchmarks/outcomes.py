"""What became of the requests of one open loop."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from benchmarks.load import Shot
from benchmarks.loading import Traffic, latency_ms

REFUSALS = (503, 429, 408)
"""uvicorn's and Offramp's, mosec's for a full queue, and mosec's for a time that is up."""


@dataclass(frozen=True)
class Outcomes:
    """Requests and answers per second, shares of all requests sent, and what answers were like.

    Good answers came in time by the client's clock, from when a request was due; right ones are
    good answers with the right label. Without answers, what they were like is nan.
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

    def cells(self) -> str:
        """The columns of HEADINGS."""
        return (
            f"{self.offered:.0f} | {self.good:.0f} | {self.right:.0f} | {100 * self.late:.2f} "
            f"| {100 * self.refused:.1f} | {100 * self.failed:.2f} | {self.p50_ms:.1f} "
            f"| {self.p99_ms:.1f} | {self.mean_exit:.2f} | {100 * self.accuracy:.1f}"
        )


HEADINGS = (
    "offered/s | good/s | right in time/s | late % | refused % | failed % | p50 ms | p99 ms "
    "| mean exit | top-1 %"
)


def outcomes(asked: Traffic, shots: Sequence[Shot], seconds: float, budget_ms: float) -> Outcomes:
    answered = [shot for shot in shots if shot.status == 200]
    good = [shot for shot in answered if 1000 * shot.latency_s <= budget_ms]
    num_refused = sum(shot.status in REFUSALS for shot in shots)
    exits = [shot.answer["exit"] for shot in answered if "exit" in shot.answer]
    lags = sorted(shot.sent_s - shot.due_s for shot in shots)
    return Outcomes(
        offered=len(shots) / seconds,
        good=len(good) / seconds,
        right=sum(map(asked.is_right, good)) / seconds,
        late=(len(answered) - len(good)) / len(shots),
        refused=num_refused / len(shots),
        failed=1 - (len(answered) + num_refused) / len(shots),
        p50_ms=latency_ms(shots, 0.5),
        p99_ms=latency_ms(shots, 0.99),
        mean_exit=fmean(exits) if exits else float("nan"),
        accuracy=asked.accuracy(answered),
        lag_ms=1000 * lags[int(0.99 * len(lags))],
    )


def medians(rounds: Sequence[Outcomes]) -> Outcomes:
    """Each number's median."""
    return Outcomes(*(median(values) for values in zip(*map(numbers, rounds), strict=True)))


def numbers(found: Outcomes) -> list[float]:
    return list(vars(found).values())


def exit_shares(answered: Sequence[Shot]) -> str:
    """Per cent of the answers at each exit; a server of one exit names none."""
    exits = Counter(shot.answer["exit"] for shot in answered if "exit" in shot.answer)
    if not exits:
        return "all at the last"
    num_exits = next(shot.answer["num_exits"] for shot in answered)
    return " ".join(f"{100 * exits[k] / len(answered):.0f}" for k in range(1, num_exits + 1))
