"""Naive exits behind mosec: a Rust front, a worker process per core, batches of a tried size.

python -m benchmarks.rivals.batches --port 8000
"""

from typing import Any

import numpy as np
from mosec import Server, Worker

from benchmarks.rivals.exits import Exits
from benchmarks.rivals.networks import Answer, Features
from benchmarks.rivals.setup import Setup
from models.bundle.bundle import load_bundle
from models.bundle.cores import num_cores

WORKERS = num_cores()
SHORTEST_WAIT_MS = 1
"""For a batch to fill; mosec takes 0 for its default of 10."""
WORKER_LIMIT_S = 30.0
"""Or the budget, `--timeout`, would end a worker that takes longer, not only the request."""


class ExitsWorker(Worker):
    """Decodes, runs and answers in one process: between two, images would cost a copy each."""

    def __init__(self) -> None:
        self._exits = Exits(load_bundle(Setup.told().bundle))

    def deserialize(self, data: bytes) -> Features:
        return self._exits.read(data)

    def forward(self, data: Any) -> Answer | list[Answer]:  # noqa: ANN401
        """Of one image, or where batches are allowed, of a list of images."""
        if isinstance(data, list):
            return self._exits.answers(
                {n: np.concatenate([row[n] for row in data]) for n in data[0]}
            )
        return self._exits.answer(data)


def main() -> None:
    """Serves until it is told to end; mosec reads the command line itself."""
    server = Server()
    server.append_worker(
        ExitsWorker,
        num=WORKERS,
        max_batch_size=Setup.told().max_batch_size,
        max_wait_time=SHORTEST_WAIT_MS,
        timeout=WORKER_LIMIT_S,
        route="/v1/classify",
    )
    server.run()


if __name__ == "__main__":
    main()
