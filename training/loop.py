"""The training loop: it owns all the state of a run, and saves all of it after every epoch."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from models.nets.presets import build
from training import checkpoint
from training.augment import flipped, normalised, shifted
from training.checkpoint import Checkpoint, CheckpointError
from training.config import TrainConfig
from training.data import DataError, load_images, split_rows
from training.losses import annealed, distillation_loss, exit_wise_loss
from training.schedule import learning_rate

LAST, BEST, SPLITS = "last.pt", "best.pt", "splits.npz"


class Run:
    """One training run in `directory`: its network, optimiser, data and progress."""

    def __init__(self, config: TrainConfig, directory: Path, device: torch.device) -> None:
        self.config, self.directory, self.device = config, directory, device
        data = load_images(config.data, "train", config.image_size)
        self.splits = split_rows(data.labels, config)
        self.train = data.subset(self.splits.train)
        self.selection = data.subset(self.splits.selection)
        if len(self.train) < config.batch_size:
            raise DataError(
                f"{len(self.train)} training images do not fill one batch of {config.batch_size}"
            )
        torch.manual_seed(config.seed)
        *_, channels = self.image_shape = list(data.images.shape[1:])
        net = build(config.net, channels, len(data.names)).to(device)
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.forward = torch.compile(self.net) if config.compile else self.net
        self.optimizer = torch.optim.SGD(
            self.net.parameters(),
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.momentum > 0,
            fused=True,
        )
        self.mean, self.std = (x.to(device) for x in channel_statistics(self.train.images))
        self.epoch, self.distillation_temperature, self.best_score = 0, 1.0, -1.0
        self.git_commit = git_commit()

    def restore(self, saved: Checkpoint) -> None:
        """Takes over everything a checkpoint holds."""
        if saved.config != self.config:
            raise CheckpointError(f"{self.directory} holds a run with another configuration")
        self.net.load_state_dict(saved.net)
        self.optimizer.load_state_dict(saved.optimizer)
        self.epoch, self.best_score = saved.epoch, saved.best_score
        self.distillation_temperature = saved.distillation_temperature
        self.git_commit = saved.git_commit
        checkpoint.set_random_state(saved.random_state)

    def snapshot(self) -> Checkpoint:
        return Checkpoint(
            config=self.config,
            epoch=self.epoch,
            distillation_temperature=self.distillation_temperature,
            best_score=self.best_score,
            net=self.net.state_dict(),
            optimizer=self.optimizer.state_dict(),
            random_state=checkpoint.random_state(),
            labels=list(self.train.names),
            image_shape=self.image_shape,
            mean=self.mean.tolist(),
            std=self.std.tolist(),
            git_commit=self.git_commit,
        )

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of shuffled, augmented batches; the last, incomplete one is dropped."""
        config = self.config
        order = torch.randperm(len(self.train))
        for start in range(0, len(order) - config.batch_size + 1, config.batch_size):
            rows = order[start : start + config.batch_size]
            images = self.train.images[rows].to(self.device, non_blocking=True)
            images = normalised(images, self.mean, self.std)
            if config.flip:
                images = flipped(images)
            if config.crop_padding:
                images = shifted(images, config.crop_padding)
            yield images, self.train.labels[rows].to(self.device, non_blocking=True)

    def step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One optimiser step; returns the loss and the number of correct rows per exit."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            logits = [z.float() for z in self.forward(images)]
        if self.config.loss == "distillation":
            loss = distillation_loss(logits, labels, self.distillation_temperature)
            self.distillation_temperature = annealed(
                self.distillation_temperature, logits[-1], self.config.distillation_confidence
            )
        else:
            loss = exit_wise_loss(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        with torch.no_grad():
            correct = torch.stack([(z.argmax(dim=1) == labels).sum() for z in logits])
        return loss.detach(), correct

    def train_epoch(self) -> tuple[float, list[float]]:
        """Mean loss and training accuracy per exit of one epoch."""
        self.net.train()
        num_batches = len(self.train) // self.config.batch_size
        losses, correct = torch.zeros(()), torch.zeros(self.net.num_exits, dtype=torch.int64)
        title = f"epoch {self.epoch + 1}/{self.config.epochs}"
        with tqdm(self.batches(), title, total=num_batches, unit="batch", mininterval=1) as bar:
            for i, (images, labels) in enumerate(bar):
                rate = learning_rate(self.config, self.epoch + i / num_batches)
                self.optimizer.param_groups[0]["lr"] = rate
                loss, hits = self.step(images, labels)
                losses += loss.cpu()
                correct += hits.cpu()
                if i % 10 == 9 or i + 1 == num_batches:
                    shares = (correct / ((i + 1) * self.config.batch_size)).tolist()
                    bar.set_postfix_str(f"loss {losses.item() / (i + 1):.3f} {percents(shares)}")
        return losses.item() / num_batches, shares

    def selection_accuracy(self) -> list[float]:
        """Accuracy per exit on the selection split."""
        self.net.eval()
        correct = torch.zeros(self.net.num_exits, dtype=torch.int64)
        with torch.no_grad():
            for start in range(0, len(self.selection), 250):
                rows = slice(start, start + 250)
                images = self.selection.images[rows].to(self.device)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
                    logits = self.net(normalised(images, self.mean, self.std))
                labels = self.selection.labels[rows]
                correct += torch.stack([(z.argmax(1).cpu() == labels).sum() for z in logits])
        return (correct / len(self.selection)).tolist()


def train(config: TrainConfig, directory: Path, log: Callable[[str], None] = tqdm.write) -> Path:
    """Trains, or goes on training, the run in `directory`; returns the best checkpoint's path.

    Killed at any moment, the same call resumes after the last finished epoch and, on the CPU,
    ends with the same weights. The best epoch is the one with the highest mean over exits of
    selection accuracy; without a selection split, the last.
    """
    directory.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    last, best = directory / LAST, directory / BEST
    run = Run(config, directory, device)
    if last.exists():
        run.restore(checkpoint.load(last))
        log(f"resuming {directory} after epoch {run.epoch}")
    np.savez(directory / SPLITS, **vars(run.splits))
    with SummaryWriter(directory / "tensorboard", purge_step=run.epoch) as writer:
        while run.epoch < config.epochs:
            loss, accuracy = run.train_epoch()
            run.epoch += 1
            record(writer, run, loss, {"train": accuracy})
            score = float(run.epoch)
            if len(run.selection):
                accuracy = run.selection_accuracy()
                record(writer, run, loss, {"selection": accuracy})
                log(f"epoch {run.epoch}: selection accuracy {percents(accuracy)}")
                score = sum(accuracy) / len(accuracy)
            is_best = score > run.best_score
            run.best_score = max(score, run.best_score)
            # the best one first: killed in between, the epoch is run again and saved as both
            for path in (best, last) if is_best else (last,):
                checkpoint.save(run.snapshot(), path)
    return best


def record(writer: SummaryWriter, run: Run, loss: float, shares: dict[str, list[float]]) -> None:
    """Writes one epoch's scalars for TensorBoard."""
    scalars = {"loss": loss, "distillation_temperature": run.distillation_temperature}
    for split, accuracy in shares.items():
        scalars |= {f"{split}/accuracy_exit_{k}": a for k, a in enumerate(accuracy, start=1)}
    for name, value in scalars.items():
        writer.add_scalar(name, value, run.epoch)


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel of pixels scaled to [0, 1].

    The deviation is at least one grey level, so that a constant channel normalises to zero.
    """
    flat = images.reshape(-1, images.shape[-1])
    counts = torch.stack([torch.bincount(channel, minlength=256) for channel in flat.T]).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts * values).sum(1) / len(flat)
    variance = (counts * values**2).sum(1) / len(flat) - mean**2
    return mean.float(), variance.clamp(min=(1 / 255) ** 2).sqrt().float()


def percents(shares: list[float]) -> str:
    return " ".join(f"{100 * share:.1f}" for share in shares)


def git_commit() -> str:
    """The checkout's commit, "-dirty" appended where it has uncommitted changes."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    here = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # git is not installed
        return "unknown"
    return done.stdout.strip() or "unknown"
