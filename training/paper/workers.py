"""Commands that run side by side, each in a process of its own with its share of the machine."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from queue import Queue

import torch

from models.bundle.imports import import_variables

Process = subprocess.Popen[bytes]


class Workers:
    """Runs at most `num_jobs` commands at once, each on its share of the cores or one GPU."""

    def __init__(self, num_jobs: int) -> None:
        self.num_threads = max(1, len(os.sched_getaffinity(0)) // num_jobs)
        self.slots: Queue[int] = Queue()
        for slot in range(num_jobs):
            self.slots.put(slot)
        self.to_stop: set[Process] = set()

    def run(self, command: Sequence[str], log: Path) -> int:
        """Appends what a command prints to `log`; returns its exit status."""
        slot = self.slots.get()
        environment = import_variables() | {
            "OMP_NUM_THREADS": str(self.num_threads),
            "PYTHONUNBUFFERED": "1",
        }
        if torch.cuda.is_available():
            environment["CUDA_VISIBLE_DEVICES"] = str(slot % torch.cuda.device_count())
        try:
            with log.open("a") as file:
                process = Process(
                    command,
                    env=os.environ | environment,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,  # signals of the terminal come through `stop` alone
                )
                self.to_stop.add(process)
                status = process.wait()
                self.to_stop.discard(process)
        finally:
            self.slots.put(slot)
        return status

    def stop(self) -> None:
        """Sends SIGTERM to every process that did not get it yet."""
        for process in tuple(self.to_stop):
            self.to_stop.discard(process)
            process.terminate()
