"""A training run: all its state, one step of it, and what a checkpoint keeps of it."""

import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from models.bundle.errors import UserError
from models.nets.multi_exit import MultiExitNet
from models.nets.presets import build
from training import checkpoint
from training.augment import (
    PARTNER_OFFSET,
    channel_statistics,
    cut_out,
    flipped,
    mixed,
    normalised,
    shifted,
)
from training.checkpoint import Checkpoint, CheckpointError
from training.config import TrainConfig
from training.data import DataError, Splits, open_images, split_rows
from training.distributed import World
from training.losses import (
    UNLABELLED,
    annealed,
    distillation_loss,
    exit_wise_loss,
    mean_confidence,
)
from training.optimizers import make_optimizer, scale_trunk_gradients, set_rates
from training.schedule import learning_rate

LAST, BEST, SPLITS = "last.pt", "best.pt", "splits.npz"
SAVE_INTERVAL_S = 600.0


class Stopped(UserError):
    """The run was asked to stop and has left a checkpoint; the message says how to go on."""


class Run:
    """One training run in `directory`: its network, optimiser, data and progress."""

    def __init__(self, config: TrainConfig, directory: Path, world: World) -> None:
        self.config, self.directory, self.world = config, directory, world
        if config.micro_batches % world.size:
            raise UserError(
                f"{config.micro_batches} micro-batches cannot be shared by {world.size} processes; "
                f"try --set micro_batches={world.size}"
            )
        source = open_images(config.data, "train", config.image_size)
        self.splits = split_rows(source.labels, config)
        train = source.take(np.append(self.splits.train, self.splits.unlabelled))
        train.labels[len(self.splits.train) :] = UNLABELLED
        self.train, self.selection = train, source.take(self.splits.selection)
        if self.steps_per_epoch == 0:
            raise DataError(
                f"{len(self.splits.train)} training images do not fill one batch of "
                f"{config.batch_size}"
            )
        torch.manual_seed(config.seed)
        device = world.device
        self.image_shape = list(train.images.shape[1:])
        net = build(config.net, self.image_shape, len(train.names)).to(device)
        if config.start_from is not None:
            net.load_state_dict(earlier_weights(Path(config.start_from), config.net, self.splits))
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.replica = world.wrap(self.net)
        self.forward: Callable[[Tensor], list[Tensor]] = self.replica
        if config.compile:  # on a GPU the compiled network is replayed as CUDA graphs
            mode = "reduce-overhead" if device.type == "cuda" else "default"
            self.forward = torch.compile(self.replica, mode=mode)
        self.average = None if config.ema_decay is None else averaged(self.net, config.ema_decay)
        self.optimizer = make_optimizer(self.net, config)
        self.is_bf16 = config.bf16 and computes_in_bf16(device)
        self.mean, self.std = (x.to(device) for x in channel_statistics(train.images))
        self.distillation_temperature = torch.tensor(
            config.distillation_temperature or 1.0, dtype=torch.float64, device=device
        )
        self.epoch, self.step, self.order = 0, 0, torch.empty(0, dtype=torch.int64)
        self.loss_sum = torch.zeros((), device=device)
        self.num_correct = torch.zeros(self.net.num_exits, dtype=torch.float64, device=device)
        self.best_score, self.is_asked_to_stop = -1.0, False
        self.git_commit = git_commit()

    @property
    def labelled_per_batch(self) -> int:
        return self.config.batch_size // (2 if len(self.splits.unlabelled) else 1)

    @property
    def steps_per_epoch(self) -> int:
        """Every labelled row is seen once; the last, incomplete batch is dropped."""
        return len(self.splits.train) // self.labelled_per_batch

    def restore(self, saved: Checkpoint) -> None:
        """Takes over everything a checkpoint holds."""
        if saved.config != self.config:
            raise CheckpointError(f"{self.directory} holds a run with another configuration")
        self.net.load_state_dict(saved.net)
        if self.average is not None and saved.average is not None:
            self.average.load_state_dict(saved.average)
        self.optimizer.load_state_dict(saved.optimizer)
        self.epoch, self.step, self.order = saved.epoch, saved.step, saved.order
        self.loss_sum.copy_(saved.loss_sum)
        self.num_correct.copy_(saved.num_correct)
        self.distillation_temperature.fill_(saved.distillation_temperature)
        self.best_score, self.git_commit = saved.best_score, saved.git_commit
        checkpoint.set_random_state(saved.random_state)

    def snapshot(self) -> Checkpoint:
        return Checkpoint(
            config=self.config,
            epoch=self.epoch,
            step=self.step,
            order=self.order,
            loss_sum=self.loss_sum,
            num_correct=self.num_correct,
            distillation_temperature=self.distillation_temperature.item(),
            best_score=self.best_score,
            net=self.net.state_dict(),
            average=self.average.state_dict() if self.average is not None else None,
            optimizer=self.optimizer.state_dict(),
            random_state=checkpoint.random_state(),
            labels=list(self.train.names),
            image_shape=self.image_shape,
            mean=self.mean.tolist(),
            std=self.std.tolist(),
            git_commit=self.git_commit,
        )

    def save(self, *names: str) -> None:
        if self.world.is_main:
            for name in names:
                checkpoint.save(self.snapshot(), self.directory / name)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """These rows augmented, and their labels. Every process draws alike for all of them."""
        device = self.world.device
        images = self.train.images[rows].to(device, non_blocking=True)
        images = normalised(images, self.mean, self.std)
        if self.config.flip:
            images = flipped(images)
        if self.config.crop_padding:
            images = shifted(images, self.config.crop_padding)
        if self.config.cutout:
            images = cut_out(images, self.config.cutout)
        return images, self.train.labels[rows].to(device, non_blocking=True)

    def train_step(self) -> None:
        """One optimiser step on the next batch of the epoch, this process's parts of it."""
        config, world = self.config, self.world
        rate = learning_rate(config, self.epoch + self.step / self.steps_per_epoch)
        set_rates(self.optimizer, config, rate / config.learning_rate)
        start = self.step * config.batch_size
        whole, labels = self.batch(self.order[start : start + config.batch_size])
        own_share: Tensor | None = None
        if config.mixing is not None:
            whole, own_share = mixed(whole, config.mixing)
        batch = (whole, labels, labels.roll(PARTNER_OFFSET))
        parts = list(zip(*(x.chunk(config.micro_batches) for x in batch), strict=True))
        parts = parts[world.rank :: world.size]
        self.optimizer.zero_grad()
        confidence = torch.zeros((), device=world.device)
        for i, (images, own, partners) in enumerate(parts, start=1):
            is_last = i == len(parts) or world.size == 1
            with nullcontext() if is_last else self.replica.no_sync():  # type: ignore[operator]
                confidence += self.backward(images, own, partners, own_share, 1 / len(parts))
        if config.gradient_scaling:
            scale_trunk_gradients(self.net)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.net)
        confidence = world.mean(confidence)
        if config.loss == "distillation" and config.distillation_temperature is None:
            self.distillation_temperature = annealed(
                self.distillation_temperature, confidence, config.distillation_confidence
            )
        self.step += 1
        self.is_asked_to_stop = world.any(self.is_asked_to_stop)

    def backward(
        self,
        images: Tensor,
        labels: Tensor,
        partner_labels: Tensor,
        own_share: Tensor | None,
        weight: float,
    ) -> Tensor:
        """Adds the gradients of one part of the batch; returns its part of the confidence.

        Where images are mixed, so are the losses of their own labels and of their partners'.
        """
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.is_bf16):
            logits = [z.float() for z in self.forward(images)]
        loss = self.loss(logits, labels)
        if own_share is not None:
            loss = own_share * loss + (1 - own_share) * self.loss(logits, partner_labels)
        (loss * weight).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.loss_sum += loss * weight
            self.num_correct += torch.stack([(z.argmax(dim=1) == labels).sum() for z in logits])
            return mean_confidence(logits[-1], self.distillation_temperature) * weight

    def loss(self, logits: list[Tensor], labels: Tensor) -> Tensor:
        """The configured loss, a scalar."""
        config = self.config
        if config.loss == "exit-wise":
            return exit_wise_loss(logits, labels, config.label_smoothing)
        temperature = self.distillation_temperature
        return distillation_loss(
            logits, labels, temperature, config.teachers, config.label_smoothing
        )

    def train_epoch(self) -> tuple[float, list[float]]:
        """Mean loss and training accuracy per exit of one epoch, of this process's rows.

        Begins where the epoch was left, if it was. Raises Stopped after a step, once asked to.
        """
        self.net.train()
        if self.step == 0:
            self.order = draw_order(len(self.splits.train), len(self.splits.unlabelled))
            self.loss_sum.zero_()
            self.num_correct.zero_()
        saved_at = monotonic()
        title = f"epoch {self.epoch + 1}/{self.config.epochs}"
        with tqdm(
            total=self.steps_per_epoch,
            initial=self.step,
            desc=title,
            unit="batch",
            mininterval=1,
            disable=None if self.world.is_main else True,  # no bar where no terminal is
        ) as bar:
            while self.step < self.steps_per_epoch:
                self.train_step()
                bar.update()
                if self.is_asked_to_stop:
                    self.save(LAST)
                    raise Stopped(
                        f"stopped in epoch {self.epoch + 1}; "
                        f"the same command goes on from {self.directory / LAST}"
                    )
                if monotonic() - saved_at > SAVE_INTERVAL_S:
                    self.save(LAST)
                    saved_at = monotonic()
                if self.step % 10 == 0:
                    loss, shares = self.epoch_means()
                    bar.set_postfix_str(f"loss {loss:.3f} {percents(shares)}")
        return self.epoch_means()

    def epoch_means(self) -> tuple[float, list[float]]:
        """Mean loss, and training accuracy per exit, of this process's rows of the epoch so far."""
        num_rows = self.step * self.labelled_per_batch / self.world.size
        return self.loss_sum.item() / self.step, (self.num_correct / num_rows).tolist()

    def selection_accuracy(self) -> list[float]:
        """Accuracy per exit on the selection split, of the averaged weights where there are any."""
        net = self.net if self.average is None else self.average
        net.eval()
        device = self.world.device
        correct = torch.zeros(self.net.num_exits, dtype=torch.int64)
        with torch.no_grad():
            for start in range(0, len(self.selection), 250):
                rows = slice(start, start + 250)
                images = normalised(self.selection.images[rows].to(device), self.mean, self.std)
                with torch.autocast(device.type, torch.bfloat16, enabled=self.is_bf16):
                    logits = net(images)
                labels = self.selection.labels[rows]
                correct += torch.stack([(z.argmax(1).cpu() == labels).sum() for z in logits])
        return (correct / len(self.selection)).tolist()

    def finish_epoch(self) -> dict[str, float]:
        """Counts the epoch, judges it if its turn has come, and saves; returns what to record.

        What the processes saw of their own parts is averaged first.
        """
        for seen in (self.loss_sum, self.num_correct, *self.net.buffers()):
            if seen.is_floating_point():
                self.world.mean(seen)
        loss, accuracy = self.epoch_means()
        self.epoch, self.step = self.epoch + 1, 0
        if not self.world.is_main:
            return {}
        scalars = {"loss": loss, "distillation_temperature": self.distillation_temperature.item()}
        scalars |= by_exit("train", accuracy)
        is_last = self.epoch == self.config.epochs
        names: tuple[str, ...] = (LAST,)
        if len(self.selection) == 0:
            names = (BEST, LAST)
        elif is_last or self.epoch % self.config.selection_interval == 0:
            accuracy = self.selection_accuracy()
            scalars |= by_exit("selection", accuracy)
            score = sum(accuracy) / len(accuracy)
            if score > self.best_score:
                self.best_score, names = score, (BEST, LAST)
        # the best one first: killed in between, the epoch is run again and saved as both
        self.save(*names)
        return scalars


def earlier_weights(directory: Path, net: str, splits: Splits) -> dict[str, Tensor]:
    """The best weights of a run, which has learned nothing of what is to select or calibrate."""
    saved = checkpoint.load(directory / BEST)
    if saved.config.net != net:
        raise CheckpointError(f"{directory} holds a {saved.config.net}, not a {net}")
    with np.load(directory / SPLITS) as earlier:
        learned = np.append(earlier["train"], earlier["unlabelled"])
    if np.isin(np.append(splits.selection, splits.calibration), learned).any():
        raise CheckpointError(f"{directory} has learned from rows that are to be kept apart")
    return saved.weights


def computes_in_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32; on processors without AVX-512 it is far slower."""
    return device.type == "cuda" or torch.backends.cpu.get_cpu_capability() == "AVX512"


def averaged(net: MultiExitNet, decay: float) -> AveragedModel:
    """An exponential moving average of the weights and of the normalisation statistics."""
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(net, multi_avg_fn=average, use_buffers=True)


def draw_order(num_labelled: int, num_unlabelled: int) -> Tensor:
    """The rows of one epoch's batches: the labelled ones shuffled, every second one unlabelled.

    Unlabelled rows follow the labelled ones in the data; they are drawn without replacement until
    none is left, and then again.
    """
    labelled = torch.randperm(num_labelled)
    if num_unlabelled == 0:
        return labelled
    rounds = -(-num_labelled // num_unlabelled)
    unlabelled = torch.cat([torch.randperm(num_unlabelled) for _ in range(rounds)])
    pairs = [labelled, num_labelled + unlabelled[:num_labelled]]
    return torch.stack(pairs, dim=1).flatten()


def by_exit(split: str, accuracy: list[float]) -> dict[str, float]:
    return {f"{split}/accuracy_exit_{k}": a for k, a in enumerate(accuracy, start=1)}


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
