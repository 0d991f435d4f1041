"""The cost of distillation over exit-wise training, per training step and at test time."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

import torch

from models.bundle.profile import hardware
from training.config import TrainConfig
from training.distributed import World
from training.feed import draw_order
from training.paper.reproduce import EXPERIMENTS, config_of
from training.run import Run

ROUNDS, STEPS, WARM_UP = 12, 10, 3
METHODS = ("exit-wise", "distillation")


@dataclass(frozen=True)
class Overhead:
    """Seconds of single steps by method and round, and the number of weights of each network."""

    net: str
    batch_size: int
    steps_s: dict[str, list[list[float]]]
    parameters: dict[str, int]

    @property
    def ratios(self) -> list[float]:
        """Distillation over exit-wise, of the two median steps of every round."""
        pairs = zip(*(self.steps_s[method] for method in METHODS), strict=True)
        return [median(with_teacher) / median(without) for without, with_teacher in pairs]


def measure(data: str, recipe: str) -> Overhead:
    """Times training steps of the two methods in turns, A B A B, in one process."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    experiment = EXPERIMENTS["cifar100-150"]
    configs = {m: config_of(experiment, m, 0, recipe, data) for m in METHODS}
    with tempfile.TemporaryDirectory() as directory:
        at, world = Path(directory), World(device)
        runs = {m: Run(config, at, world, lambda _: None) for m, config in configs.items()}
    for run in runs.values():
        run.net.train()
        run.order = draw_order(len(run.splits.train), len(run.splits.unlabelled))
        time_steps(run, WARM_UP)
    steps_s: dict[str, list[list[float]]] = {method: [] for method in METHODS}
    for _ in range(ROUNDS):
        for method, run in runs.items():
            run.step = 0
            steps_s[method].append(time_steps(run, STEPS))
    config: TrainConfig = configs["distillation"]
    parameters = {m: sum(p.numel() for p in run.net.parameters()) for m, run in runs.items()}
    return Overhead(config.net, config.batch_size, steps_s, parameters)


def time_steps(run: Run, num_steps: int) -> list[float]:
    """Seconds of each of the next steps."""
    times = []
    for _ in range(num_steps):
        start = perf_counter()
        run.train_step()
        if run.world.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(perf_counter() - start)
    return times


def markdown(result: Overhead) -> str:
    """The comparison as a Markdown table."""
    lines = [
        f"{result.net}, batch {result.batch_size}, {ROUNDS} rounds of {STEPS} steps of each in "
        f"turns, on {hardware()} with {torch.get_num_threads()} threads.",
        "",
        "| method | median step, ms | parameters |",
        "|---|---|---|",
    ]
    for method, rounds in result.steps_s.items():
        step_ms = 1e3 * median(t for steps in rounds for t in steps)
        lines.append(f"| {method} | {step_ms:.1f} | {result.parameters[method]:,} |")
    low, middle, high = quantiles(result.ratios)
    lines += [
        "",
        f"distillation / exit-wise: {middle:.3f}, quartiles over rounds {low:.3f} to {high:.3f}.",
        "At test time the networks are the same: same graphs, parameters and MACs.",
    ]
    return "\n".join(lines) + "\n"
