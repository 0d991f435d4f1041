"""The training loop, from the first epoch or a checkpoint to the last epoch."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from models.bundle.errors import UserError
from training import checkpoint
from training.config import TrainConfig
from training.distributed import World, join
from training.exporting.rehearsal import rehearse
from training.run import BEST, LAST, Run, percents

LOCK = "lock"


def train(
    config: TrainConfig,
    directory: Path,
    log: Callable[[str], None] = tqdm.write,
    *,
    is_rehearsed: bool = False,
) -> Path:
    """Trains, or goes on training, the run in `directory`; returns the best checkpoint's path.

    No other process may train in `directory` meanwhile; raises UserError if one does. Killed at any
    moment, the same call resumes after the last checkpoint and, on the CPU, ends
    with the same weights. SIGINT or SIGTERM leaves a checkpoint and raises Stopped. The best epoch
    is the one with the highest mean over exits of selection accuracy; without a selection split,
    the last. Started by `torchrun`, its processes share every batch. `is_rehearsed` tries, before
    the first epoch, what export will do.
    """
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file, not a run's directory")
    directory.mkdir(parents=True, exist_ok=True)
    with join() as world, alone_in(directory, world):
        run = Run(config, directory, world, log)
        if (directory / LAST).exists():
            run.restore(checkpoint.load(directory / LAST))
            log(f"resuming {directory} after epoch {run.epoch}, step {run.step}")
        elif world.is_main:
            if is_rehearsed:
                rehearse(run)
            run.data.keep(directory)
        with stopping_on_signals(run):
            while run.epoch < config.epochs:
                run.train_epoch()
                scalars = run.finish_epoch()
                if world.is_main:
                    record(directory, run.epoch, scalars, log)
    return directory / BEST


@contextmanager
def alone_in(directory: Path, world: World) -> Iterator[None]:
    """Locks a run's directory until training ends, or the process does."""
    lock = FileLock(directory / LOCK)
    if world.is_main:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise UserError(f"{directory} is in use: another process trains it") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def stopping_on_signals(run: Run) -> Iterator[None]:
    """The first SIGINT or SIGTERM stops the run after its step; a second one acts as usual."""
    previous = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def stop(*_: object) -> None:
        run.is_asked_to_stop = True
        restore()

    for number in previous:
        signal.signal(number, stop)
    try:
        yield
    finally:
        restore()


def record(
    directory: Path, epoch: int, scalars: dict[str, float], log: Callable[[str], None]
) -> None:
    """Appends one epoch's scalars for TensorBoard, and logs its selection accuracy."""
    # purges what a killed process wrote of this epoch before it could save the checkpoint
    with SummaryWriter(directory / "tensorboard", purge_step=epoch) as writer:
        for name, value in scalars.items():
            writer.add_scalar(name, value, epoch)
    selection = [value for name, value in scalars.items() if name.startswith("selection/")]
    if selection:
        log(f"epoch {epoch}: selection accuracy {percents(selection)}")
