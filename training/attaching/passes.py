"""Rows sent through a network's pieces, by as many threads as there are cores."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import numpy as np

from models.bundle.confidence import Floats
from models.bundle.runner import Arrays, SegmentRunner
from training.attaching.photos import Photos, UndecodablePhotos
from training.data.rows import Index
from training.progress import Progress

CHUNK = 8
"""Rows that one thread decodes and holds at a time."""

Outputs = list[Floats]
View = Callable[[Arrays], Arrays]


def passes(
    runner: SegmentRunner, photos: Photos, rows: Index, view: View, title: str
) -> Iterator[tuple[Index, Outputs]]:
    """Chunks of `rows` and what every head says of them, under a progress bar.

    Raises UndecodablePhotos at the end, naming every row that cannot be decoded.
    """

    def work(chunk: Index) -> tuple[Index, Outputs]:
        return chunk, runner.run(view(photos.decode(chunk)))

    rows = rows[np.argsort(photos.order[rows], kind="stable")]
    num_threads = len(os.sched_getaffinity(0))
    chunks = iter(np.split(rows, range(CHUNK, len(rows), CHUNK)) if len(rows) else [])
    pool = ThreadPoolExecutor(num_threads)
    running: set[Future[tuple[Index, Outputs]]] = set()
    failures: list[str] = []
    with Progress(len(rows), title, "row") as bar:
        try:
            while True:
                while len(running) < 2 * num_threads and (chunk := next(chunks, None)) is not None:
                    running.add(pool.submit(work, chunk))
                if not running and failures:
                    raise UndecodablePhotos(failures)
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    try:
                        result = future.result()
                    except UndecodablePhotos as error:
                        failures += error.failures
                        continue
                    bar.update(len(result[0]))
                    yield result
        finally:
            pool.shutdown(cancel_futures=True)


def as_it_is(inputs: Arrays) -> Arrays:
    return inputs


def logits_of(
    runner: SegmentRunner, photos: Photos, title: str, view: View = as_it_is
) -> list[Floats]:
    """Logits of every exit, (rows, classes) each."""
    logits: list[Floats] = []
    rows = np.arange(photos.num_rows)
    for chunk, outputs in passes(runner, photos, rows, view, title):
        if not logits:
            logits = [np.empty((len(rows), z.shape[1]), np.float32) for z in outputs]
        for whole, part in zip(logits, outputs, strict=True):
            whole[chunk] = part
    return logits
