"""What a request costs beyond its segments as queue, classes, exits and images grow.

    python -m benchmarks.growth

Untrained networks of small convolutions, in an engine in this process, every exit consulted and
none ever confident enough. Beyond the segments: microseconds per image less those of the same
graphs run by hand, one image at a time, on one core.
"""

import asyncio
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
import typer
from tqdm import tqdm

from benchmarks.rivals.networks import Pixels
from benchmarks.untrained import random_images, write_bundle
from models.bundle.confidence import softmax
from models.bundle.policy import policy_of_threshold
from models.bundle.profile import hardware
from models.bundle.runner import Arrays
from models.nets.layers import Chain, ConvBNReLU, PoolHead
from models.nets.multi_exit import MultiExitNet
from server.engine.engine import Engine
from server.engine.job import Budget, Demand, Given, Job
from server.engine.model import ServedModel
from server.settings import load_settings
from server.telemetry.metrics import Metrics
from server.zoo.catalog import serve_bundle

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


def by_hand_us(model: ServedModel, images: Pixels, seconds: float) -> float:
    """Every segment and every exit head, image by image."""
    num_done, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        features: Arrays = [images[num_done % len(images)][None]]
        for exit in range(1, model.manifest.num_exits + 1):
            features = model.runner.run_segment(exit, features)
            softmax(model.runner.run_head(exit, features), 1.0, model.bundle.calibration.confidence)
        num_done += 1
    return 1e6 * elapsed / num_done


def in_engine_us(model: ServedModel, images: Pixels, case: Case, seconds: float) -> float:
    """The same with `case.outstanding` images always under way, batched as the scheduler likes."""
    return 1e6 / asyncio.run(closed_loop(model, images, case.outstanding, seconds))


async def closed_loop(
    model: ServedModel, images: Pixels, outstanding: int, seconds: float
) -> float:
    """Images per second."""
    engine = Engine(1, outstanding, stall_s=60, shadow_share=0, counts=Metrics())
    policy = policy_of_threshold(1.0, model.manifest.num_exits)
    source: Iterator[Pixels] = itertools.cycle(images)
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


def made_model(case: Case) -> tuple[ServedModel, Pixels]:
    """An untrained network as a served model, and images for it."""
    torch.manual_seed(0)
    heads = [PoolHead(WIDTH, case.classes) for _ in range(case.exits)]
    convs = [ConvBNReLU(3, WIDTH, 3, 2, bias=False)]
    convs += [ConvBNReLU(WIDTH, WIDTH, 3, bias=False) for _ in heads[1:]]
    net = MultiExitNet([Chain(layer) for layer in convs], heads)
    with TemporaryDirectory() as zoo:
        place = write_bundle(net, case.pixels, case.classes, Path(zoo) / "made" / "1")
        model = serve_bundle(place, load_settings(cache=os.devnull))
    return model, random_images(case.pixels, ROWS)


if __name__ == "__main__":
    typer.run(main)
