"""Training on a folder of ImageNet's size: time and memory until the first batches.

    python -m benchmarks.many_files DIRECTORY

Makes the folder in DIRECTORY (links to a few made JPEGs of 500x375 pixels), then opens, splits and
fingerprints it as `offramp train --recipe paper-imagenet` does, and decodes the first batches.
"""

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import typer
from PIL import Image

from models.bundle.profile import hardware
from training.config import RECIPES, TrainConfig
from training.distributed import World
from training.feed import Streamed, draw_order
from training.run_data import open_data

NUM_SOURCES = 64  # a file system allows so many links to one file: ext4 65,000
Result = TypeVar("Result")


def make_folder(directory: Path, num_files: int, num_classes: int) -> None:
    """DIRECTORY/train and a twentieth as many in DIRECTORY/test."""
    generator = np.random.default_rng(0)
    sources = []
    for number in range(NUM_SOURCES):
        noise = generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        sources.append(directory / f"source{number}.jpeg")
        photo = Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC)
        photo.save(sources[-1], quality=90)
    for split, total in (("train", num_files), ("test", num_files // 20)):
        for number in range(total):
            name = f"n{number % num_classes:08}"
            folder = directory / split / name
            if number < num_classes:
                folder.mkdir(parents=True)
            os.link(sources[number % NUM_SOURCES], folder / f"{name}_{number}.JPEG")


def timed(title: str, step: Callable[[], Result]) -> Result:
    started = time.perf_counter()
    result = step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| {title} | {time.perf_counter() - started:.1f} | {peak:.0f} |", flush=True)
    return result


def workers_memory() -> tuple[int, float]:
    """Worker processes, and MiB that they hold beyond what they share with this one."""
    mine = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    private = 0
    for pid in mine:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Private_Clean", "Private_Dirty")):
                private += int(line.split()[1])
    return len(mine), private / 1024


def main(directory: Path, files: int = 1_281_167, classes: int = 1000, batches: int = 20) -> None:
    """Prints a row for every step."""
    recipe = {**RECIPES["paper-imagenet"], "data": str(directory), "net": "msdnet-imagenet"}
    config = TrainConfig.model_validate(recipe)
    print(f"{hardware()}, {files} files\n\n| step | s | peak MiB |\n|---|---|---|")
    if not (directory / "train").exists():
        directory.mkdir(parents=True, exist_ok=True)
        timed("links made", lambda: make_folder(directory, files, classes))
    data = timed(
        "listed, split, fingerprinted, looked at",
        lambda: open_data(config, directory, is_new=True),
    )
    world = World(torch.device("cpu"))
    feed = timed("channel statistics", lambda: Streamed(data, config, world, print))
    order = draw_order(feed.num_labelled, feed.num_unlabelled)
    timed("first batch", lambda: feed.parts(order, 0, 0))
    rest = range(1, batches)
    timed(f"{len(rest)} more batches", lambda: [feed.parts(order, 0, k)[0][0].shape for k in rest])
    print("\n{} workers, {:.0f} MiB of their own".format(*workers_memory()))
    print(*data.notes, sep="\n")


if __name__ == "__main__":
    typer.run(main)
