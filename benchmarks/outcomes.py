"""What became of the requests of one open loop of a benchmark."""

from collections import Counter
from collections.abc import Sequence

from benchmarks.loading import Traffic
from load.generator import Shot
from load.outcomes import Outcomes
from load.outcomes import outcomes as summed_up


def outcomes(asked: Traffic, shots: Sequence[Shot], seconds: float, budget_ms: float) -> Outcomes:
    return summed_up(shots, seconds, budget_ms, asked.is_right)


def exit_shares(answered: Sequence[Shot]) -> str:
    """Per cent of the answers at each exit; a server of one exit names none."""
    exits = Counter(shot.answer["exit"] for shot in answered if "exit" in shot.answer)
    if not exits:
        return "all at the last"
    num_exits = next(shot.answer["num_exits"] for shot in answered)
    return " ".join(f"{100 * exits[k] / len(answered):.0f}" for k in range(1, num_exits + 1))
