"""What a request costs beyond its segments as queue, classes, exits and images grow.

    python -m benchmarks.growth

Untrained networks of small convolutions, in an engine in this process, every exit consulted and
none ever confident enough. Beyond the segments: microseconds per image less those of the same
graphs run by hand, one image at a time, on one core.
"""

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from tqdm import tqdm

from models.bundle.bundle import Bundle, sha256
from models.bundle.confidence import softmax
from models.bundle.costs import Costs
from models.bundle.image_input import ImageInput
from models.bundle.manifest import Manifest, Provenance
from models.bundle.policy import policy_of_threshold
from models.bundle.profile import hardware, measure
from models.bundle.records import File
from models.bundle.runner import Arrays, SegmentRunner
from models.nets.layers import Chain, ConvBNReLU, PoolHead
from models.nets.multi_exit import MultiExitNet
from server.engine.engine import Engine
from server.engine.job import Budget, Demand, Given, Job
from server.engine.model import ServedModel
from server.telemetry.metrics import Metrics
from training.evaluation.evaluate import all_logits
from training.exporting.calibrate import calibrate
from training.exporting.graphs import export_graphs
from training.fronts import ImageFront

WIDTH = 16
ROWS = 200


@dataclass(frozen=True)
class Case:
    """One network, and how many images wait for it at once."""

    classes: int = 10
    exits: int = 3
    pixels: int = 32
    outstanding: int = 1


GROWTH = {
    "outstanding": [Case(outstanding=n) for n in (1, 4, 16, 64, 256)],
    "classes": [Case(classes=n) for n in (10, 100, 1000)],
    "exits": [Case(exits=n) for n in (2, 5, 10, 20)],
    "pixels": [Case(pixels=n) for n in (32, 64, 128, 224)],
}


def main(seconds: float = 2.0, rounds: int = 5) -> None:
    """Prints one Markdown table per thing that grows."""
    print(f"One core, medians of {rounds} rounds of {seconds:g} s, {hardware()}\n")
    for name, cases in GROWTH.items():
        print(f"| {name} | µs per image, by hand | in the engine | beyond the segments |")
        print("|---|---|---|---|")
        for case in tqdm(cases, name, leave=False):
            model, images = made_model(case)
            pairs = [
                (by_hand_us(model, images, seconds), in_engine_us(model, images, case, seconds))
                for _ in range(rounds)
            ]
            by_hand, in_engine = (median(values) for values in zip(*pairs, strict=True))
            beyond = median(engine - hand for hand, engine in pairs)
            print(
                f"| {getattr(case, name):,} | {by_hand:.0f} | {in_engine:.0f} | {beyond:.0f} |",
                flush=True,
            )
        print()


def by_hand_us(model: ServedModel, images: NDArray[np.uint8], seconds: float) -> float:
    """Every segment and every exit head, image by image."""
    num_done, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        features: Arrays = [images[num_done % len(images)][None]]
        for exit in range(1, model.manifest.num_exits + 1):
            features = model.runner.run_segment(exit, features)
            softmax(model.runner.run_head(exit, features), 1.0, model.bundle.calibration.confidence)
        num_done += 1
    return 1e6 * elapsed / num_done


def in_engine_us(
    model: ServedModel, images: NDArray[np.uint8], case: Case, seconds: float
) -> float:
    """The same with `case.outstanding` images always under way, batched as the scheduler likes."""
    return 1e6 / asyncio.run(closed_loop(model, images, case.outstanding, seconds))


async def closed_loop(
    model: ServedModel, images: NDArray[np.uint8], outstanding: int, seconds: float
) -> float:
    """Images per second."""
    engine = Engine(1, outstanding, stall_s=60, shadow_share=0, counts=Metrics())
    policy = policy_of_threshold(1.0, model.manifest.num_exits)
    source: Iterator[NDArray[np.uint8]] = itertools.cycle(images)
    ended, num_done = asyncio.Semaphore(0), 0
    start = time.monotonic()

    def submit() -> None:
        # far from any deadline, so that the queue's length is all that matters
        demand = Demand(model, policy, Budget(3600.0), time.monotonic())
        slots = engine.admit(demand, 1)
        engine.submit(slots, [Job(demand, Given.of(next(source)), answered)])

    def answered(_: object) -> None:
        nonlocal num_done
        num_done += 1
        if time.monotonic() - start < seconds:
            submit()
        else:
            ended.release()

    for _ in range(outstanding):
        submit()
    for _ in range(outstanding):
        await ended.acquire()
    elapsed = time.monotonic() - start
    engine.stop()
    return num_done / elapsed


def made_model(case: Case) -> tuple[ServedModel, NDArray[np.uint8]]:
    """An untrained network as a served model, and images for it."""
    torch.manual_seed(0)
    heads = [PoolHead(WIDTH, case.classes) for _ in range(case.exits)]
    convs = [ConvBNReLU(3, WIDTH, 3, 2, bias=False)]
    convs += [ConvBNReLU(WIDTH, WIDTH, 3, bias=False) for _ in heads[1:]]
    net = MultiExitNet([Chain(layer) for layer in convs], heads)
    size = (ROWS, case.pixels, case.pixels, 3)
    images = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    mean = std = torch.full((3,), 0.5)
    graphs = export_graphs(net, [torch.from_numpy(images[:2])], ImageFront(mean, std))
    runner = SegmentRunner(*graphs)
    segments, exit_heads, content = graphs
    labels = np.random.default_rng(1).integers(case.classes, size=ROWS)
    logits = all_logits(runner, images, lambda _: None)
    nothing = File(file="none.json", sha256=sha256(b""))
    manifest = Manifest(
        schema_version=1,
        name="made",
        version=1,
        input=ImageInput.model_validate(
            {"height": case.pixels, "width": case.pixels, "channels": 3}
        ),
        labels=tuple(map(str, range(case.classes))),
        segments=tuple(segments),
        exit_heads=tuple(exit_heads),
        calibration=nothing,
        cost=nothing,
        provenance=Provenance(
            git_commit="", data="none", split="none", seed=0, epochs=1, config={}, packages={}
        ),
    )
    profile = measure(runner)
    calibration = calibrate(logits, labels, segments, exit_heads)
    bundle = Bundle(Path("made"), manifest, calibration, profile, content)
    return ServedModel(bundle, runner, profile, Costs(profile)), images


if __name__ == "__main__":
    typer.run(main)
