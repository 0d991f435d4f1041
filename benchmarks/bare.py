"""The bare loop: a bundle's segments and exits on images already decoded, without a server."""

import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import cycle
from pathlib import Path

from benchmarks.rivals.exits import Exits
from benchmarks.rivals.networks import Pixels
from models.bundle.bundle import load_bundle


def bare_rate(bundle: Path, images: Pixels, seconds: float) -> float:
    """Images per second of a process per core, all together, one image at a time."""
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores) as pool:
        return sum(pool.map(partial(bare_loop, bundle, images), [seconds] * cores))


def bare_loop(bundle: Path, images: Pixels, seconds: float) -> float:
    """Images per second of this thread."""
    loaded = load_bundle(bundle)
    network, given = Exits(loaded), loaded.manifest.segments[0].inputs[0].name
    network.answer({given: images[:1]})
    start = time.perf_counter()
    for num_done, image in enumerate(cycle(images), 1):
        network.answer({given: image[None]})
        if (elapsed := time.perf_counter() - start) > seconds:
            return num_done / elapsed
    raise ValueError("there are no images")
