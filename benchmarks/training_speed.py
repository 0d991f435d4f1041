"""Training images per second of the trainer and of a plain eager float32 loop, in turns.

Every turn is a process of its own, A B A B, over the same network, batches and cores:

    python -m benchmarks.training_speed DATA

The plain loop is what a user would write: no channels-last, no bfloat16, no compilation, the
unfused optimiser, the allocator as it comes.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated

import torch
import typer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.bundle.profile import hardware
from training.config import RECIPES, TrainConfig
from training.distributed import World
from training.feed import Held, draw_order
from training.losses import distillation_loss
from training.paper.overhead import time_steps
from training.run import Run

ARMS = ("plain", "trainer")
NET, BATCH_SIZE = "msdnet-7", 128
WARM_UP = 5
TRAINING_FLOPS_PER_MAC = 6  # two per multiply-add; forward, and backward for inputs and weights


def main(
    data: Annotated[str, typer.Argument(help="CIFAR-100, as for train.")],
    rounds: Annotated[int, typer.Option(help="Turns of each.")] = 3,
    steps: Annotated[int, typer.Option(help="Timed steps of each turn.")] = 30,
    arm: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Prints a Markdown table."""
    if arm is not None:
        print(json.dumps(measure(arm, data, steps)))
        return
    turns = [{a: in_process(a, data, steps) for a in ARMS} for _ in range(rounds)]
    print(markdown(turns, steps))


def in_process(arm: str, data: str, steps: int) -> dict[str, float]:
    """One turn."""
    environment = dict(os.environ)
    if arm == "plain":
        environment["THP_MEM_ALLOC_ENABLE"] = "0"
    command = [sys.executable, "-m", "benchmarks.training_speed", data]
    command += ["--arm", arm, "--steps", str(steps)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(arm: str, data: str, steps: int) -> dict[str, float]:
    """Images per second, MACs of an image, and the host's matrix multiplications, FLOP/s."""
    changes = {"batch_size": BATCH_SIZE, "calibration_per_class": 0, "images_per_class": 150}
    config = TrainConfig.model_validate({"data": data, "net": NET, **RECIPES["short"], **changes})
    is_plain = arm == "plain"
    if is_plain:
        config = config.model_copy(update={"bf16": False, "compile": False})
    with tempfile.TemporaryDirectory() as directory:
        run = Run(config, Path(directory), World(torch.device("cpu")))
    run.net.train()
    run.order = draw_order(len(run.splits.train), len(run.splits.unlabelled)).repeat(2)
    time = plain_steps(run, steps) if is_plain else trainer_steps(run, steps)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run.net.eval()(torch.zeros(1, 3, 32, 32))
    dtype = torch.bfloat16 if run.is_bf16 else torch.float32
    return {
        "images_per_s": BATCH_SIZE / time,
        "macs": counter.get_total_flops() / 2,
        "matmul_flops": matmul_flops(dtype),
    }


def trainer_steps(run: Run, num_steps: int) -> float:
    """Median seconds of the trainer's own step, after compilation and warm-up."""
    time_steps(run, WARM_UP)
    return median(time_steps(run, num_steps))


def plain_steps(run: Run, num_steps: int) -> float:
    """Median seconds of the plain loop over the same batches."""
    net: nn.Module = run.net.to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    feed, times = run.feed, []
    assert isinstance(feed, Held)
    for i in range(WARM_UP + num_steps):
        start = perf_counter()
        images, labels = feed.batch(run.order[i * BATCH_SIZE : (i + 1) * BATCH_SIZE])
        loss = distillation_loss(net(images.contiguous()), labels, 1.0)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        times.append(perf_counter() - start)
    return median(times[WARM_UP:])


def matmul_flops(dtype: torch.dtype, size: int = 2048, runs: int = 15) -> float:
    """FLOP/s of a square matrix multiplication, the best of a few."""
    a, b = torch.randn(2, size, size, dtype=dtype)
    times = []
    for _ in range(runs):
        start = perf_counter()
        a @ b
        times.append(perf_counter() - start)
    return 2 * size**3 / min(times)


def markdown(turns: list[dict[str, dict[str, float]]], steps: int) -> str:
    """The comparison as a Markdown table."""
    ratios = [turn["trainer"]["images_per_s"] / turn["plain"]["images_per_s"] for turn in turns]
    lines = [
        f"{NET}, batch {BATCH_SIZE}, median of {steps} steps a turn, {len(turns)} turns of each, "
        f"on {hardware()} with {torch.get_num_threads()} threads.",
        "",
        "| loop | images/s, each turn | its matrix-multiply peak, GFLOP/s | share of it |",
        "|---|---|---|---|",
    ]
    for arm in ARMS:
        results = [turn[arm] for turn in turns]
        peak = max(r["matmul_flops"] for r in results)
        speed = median(r["images_per_s"] for r in results)
        share = TRAINING_FLOPS_PER_MAC * results[0]["macs"] * speed / peak
        speeds = " ".join(f"{r['images_per_s']:.0f}" for r in results)
        lines.append(f"| {arm} | {speeds} | {peak / 1e9:.0f} | {100 * share:.0f} % |")
    lines += [
        "",
        f"trainer / plain: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}).",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
