"""A training run: all its state, one step of it, and what a checkpoint keeps of it."""

import subprocess
from collections.abc import Callable, Iterator
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
from training.checkpoint import Checkpoint, CheckpointError
from training.config import TrainConfig
from training.data import DataError
from training.data.sources import Inputs, LabelledRows
from training.distributed import World
from training.feed import HELD_BYTES, Part, feed_of
from training.fronts import front_of
from training.losses import (
    annealed,
    distillation_loss,
    exit_wise_loss,
    mean_confidence,
)
from training.optimizers import make_optimizer, scale_trunk_gradients, set_rates
from training.progress import Progress
from training.run_data import RunData, earlier_splits, open_data
from training.schedule import learning_rate

LAST, BEST = "last.pt", "best.pt"
SAVE_INTERVAL_S = 600.0
SELECTION_BATCH = 250


class Stopped(UserError):
    """The run was asked to stop and has left a checkpoint; the message says how to go on."""


class Diverged(UserError):
    """The loss is no finite number any more; the message says what is kept."""


class Run:
    """One training run in `directory`: its network, optimiser, data and progress."""

    def __init__(
        self,
        config: TrainConfig,
        directory: Path,
        world: World,
        log: Callable[[str], None] = tqdm.write,
    ) -> None:
        self.config, self.directory, self.world = config, directory, world
        if config.micro_batches % world.size:
            raise UserError(
                f"{config.micro_batches} micro-batches cannot be shared by {world.size} processes; "
                f"try --set micro_batches={world.size}"
            )
        is_new = not (directory / LAST).exists()
        self.data = open_data(config, directory, is_new=is_new)
        self.splits = self.data.splits
        self.feed = feed_of(self.data, config, world, log)
        if self.steps_per_epoch == 0:
            raise DataError(
                f"{self.feed.num_labelled} training rows do not fill one batch of "
                f"{config.batch_size}"
            )
        self.selection = self.held_selection()
        torch.manual_seed(config.seed)
        device = world.device
        net = build(config.net, self.data.train.shape, len(self.data.train.names)).to(device)
        if config.start_from is not None:
            net.load_state_dict(earlier_weights(Path(config.start_from), config.net, self.data))
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.freeze == "backbone":
            self.net.segments.requires_grad_(requires_grad=False)
        self.replica = world.wrap(self.net)
        self.forward: Callable[..., list[Tensor]] = self.replica
        if config.compile:  # on a GPU the compiled network is replayed as CUDA graphs
            mode = "reduce-overhead" if device.type == "cuda" else "default"
            self.forward = torch.compile(self.replica, mode=mode)
        self.average = None if config.ema_decay is None else averaged(self.net, config.ema_decay)
        self.optimizer = make_optimizer(self.net, config)
        self.is_bf16 = config.bf16 and computes_in_bf16(device)
        if net.normalisation is not None:
            self.feed.mean, self.feed.std = (torch.tensor(x) for x in net.normalisation)
        self.mean, self.std = self.feed.mean.to(device), self.feed.std.to(device)
        self.front = front_of(self.data.train.target, self.mean, self.std)
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
        return self.config.batch_size // (2 if self.feed.num_unlabelled else 1)

    @property
    def steps_per_epoch(self) -> int:
        """Every labelled row is seen once; the last, incomplete batch is dropped."""
        return self.feed.num_labelled // self.labelled_per_batch

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
            labels=list(self.data.train.names),
            input=self.data.train.target,
            tokenizer=self.data.tokenizer,
            mean=self.mean.tolist(),
            std=self.std.tolist(),
            git_commit=self.git_commit,
        )

    def save(self, *names: str) -> None:
        if self.world.is_main:
            for name in names:
                checkpoint.save(self.snapshot(), self.directory / name)

    @property
    def state(self) -> list[Tensor]:
        """What is finite unless the run diverged."""
        return [self.loss_sum, *self.net.parameters(), *self.net.buffers()]

    def train_step(self) -> None:
        """One optimiser step on the next batch of the epoch, this process's parts of it."""
        config, world = self.config, self.world
        rate = learning_rate(config, self.epoch + self.step / self.steps_per_epoch)
        set_rates(self.optimizer, rate)
        parts = self.feed.parts(self.order, self.epoch, self.step)
        self.optimizer.zero_grad()
        confidence = torch.zeros((), device=world.device)
        for i, part in enumerate(parts, start=1):
            is_last = i == len(parts) or world.size == 1
            with nullcontext() if is_last else self.replica.no_sync():  # type: ignore[operator]
                confidence += self.backward(part, share=1 / len(parts))
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

    def backward(self, part: Part, share: float) -> Tensor:
        """Adds the gradients of one part of the batch; returns its share of the confidence.

        Where images are mixed, so are the losses of their own labels and of their partners'.
        """
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.is_bf16):
            logits = [z.float() for z in self.forward(*part.inputs)]
        loss, own = self.loss(logits, part.labels), part.own_share
        if own is not None:
            loss = own * loss + (1 - own) * self.loss(logits, part.partner_labels)
        (loss * share).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.loss_sum += loss * share
            is_right = [z.argmax(dim=1) == part.labels for z in logits]
            self.num_correct += torch.stack(is_right).sum(dim=1)
            return mean_confidence(logits[-1], self.distillation_temperature) * share

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
        self.set_training()
        if self.step == 0:
            self.order = self.feed.order()
            self.loss_sum.zero_()
            self.num_correct.zero_()
        saved_at = monotonic()
        title = f"epoch {self.epoch + 1}/{self.config.epochs}"
        with Progress(
            self.steps_per_epoch, title, "step", initial=self.step, is_shown=self.world.is_main
        ) as bar:
            while self.step < self.steps_per_epoch:
                self.train_step()
                bar.update()
                if self.is_asked_to_stop:
                    self.refuse_divergence(*self.state)
                    self.save(LAST)
                    raise Stopped(
                        f"stopped in epoch {self.epoch + 1}; "
                        f"the same command goes on from {self.directory / LAST}"
                    )
                if monotonic() - saved_at > SAVE_INTERVAL_S:
                    if are_finite(
                        *self.state
                    ):  # the processes' clocks differ: no one else is asked
                        self.save(LAST)
                    saved_at = monotonic()
                if self.step % 10 == 0:
                    loss, shares = self.epoch_means()
                    self.refuse_divergence(self.loss_sum)
                    bar.describe(f"loss {loss:.3f}, right {percents(shares)} %")
        return self.epoch_means()

    def refuse_divergence(self, *state: Tensor) -> None:
        """Raises Diverged where one of these is no finite number, in any process."""
        if self.world.any(not are_finite(*state)):
            kept = " and ".join(name for name in (LAST, BEST) if (self.directory / name).exists())
            raise Diverged(
                f"training diverged in epoch {self.epoch + 1}: its loss is no finite number; "
                f"{self.directory} keeps {kept or 'nothing'} of the epochs before; "
                f"try a lower learning rate than {self.config.learning_rate} in a new run"
            )

    def set_training(self) -> None:
        """A frozen backbone keeps its normalisation statistics too."""
        self.net.train()
        if self.config.freeze == "backbone":
            self.net.segments.eval()

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
        num_rows = 0
        with torch.no_grad():
            for inputs, labels in self.selection_batches():
                num_rows += len(labels)
                ready = self.front.prepared([x.to(device) for x in inputs])
                with torch.autocast(device.type, torch.bfloat16, enabled=self.is_bf16):
                    logits = net(*ready)
                correct += torch.stack([(z.argmax(1).cpu() == labels).sum() for z in logits])
        return (correct / num_rows).tolist()

    def held_selection(self) -> LabelledRows | None:
        """The selection rows decoded, if they fit in memory."""
        rows = self.splits.selection
        if len(rows) * self.data.train.row_bytes > HELD_BYTES:
            return None
        return self.data.train.take(rows)

    def selection_batches(self) -> Iterator[tuple[Inputs, Tensor]]:
        """The selection rows as segment 1 takes them, and their labels."""
        if self.selection is not None:
            for start in range(0, len(self.selection), SELECTION_BATCH):
                rows = slice(start, start + SELECTION_BATCH)
                yield [x[rows] for x in self.selection.inputs], self.selection.labels[rows]
            return
        source = self.data.train
        for index, inputs in source.inputs_of(self.splits.selection):
            yield inputs, source.labels[torch.from_numpy(index)]

    def finish_epoch(self) -> dict[str, float]:
        """Counts the epoch, judges it if its turn has come, and saves; returns what to record.

        What the processes saw of their own parts is averaged first.
        """
        for seen in (self.loss_sum, self.num_correct, *self.net.buffers()):
            if seen.is_floating_point():
                self.world.mean(seen)
        self.refuse_divergence(*self.state)
        loss, accuracy = self.epoch_means()
        self.epoch, self.step = self.epoch + 1, 0
        if not self.world.is_main:
            return {}
        scalars = {"loss": loss, "distillation_temperature": self.distillation_temperature.item()}
        scalars |= by_exit("train", accuracy)
        is_last = self.epoch == self.config.epochs
        names: tuple[str, ...] = (LAST,)
        if len(self.splits.selection) == 0:
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


def are_finite(*tensors: Tensor) -> bool:
    """Whether every value is a finite number."""
    largest = torch.stack([x.detach().float().abs().max() for x in tensors if x.numel()])
    return bool(largest.isfinite().all())


def earlier_weights(directory: Path, net: str, data: RunData) -> dict[str, Tensor]:
    """The best weights of a run, which has learned nothing of what is to select or calibrate."""
    saved = checkpoint.load(directory / BEST)
    if saved.config.net != net:
        raise CheckpointError(f"{directory} holds a {saved.config.net}, not a {net}")
    earlier = earlier_splits(directory, data.fingerprint)
    learned = np.append(earlier.train, earlier.unlabelled)
    apart = np.append(data.splits.selection, data.splits.calibration)
    if np.isin(apart, learned).any():
        raise CheckpointError(f"{directory} has learned from rows that are to be kept apart")
    return saved.weights


def computes_in_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32; on processors without AVX-512 it is far slower."""
    return device.type == "cuda" or torch.backends.cpu.get_cpu_capability() == "AVX512"


def averaged(net: MultiExitNet, decay: float) -> AveragedModel:
    """An exponential moving average of the weights and of the normalisation statistics."""
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(net, multi_avg_fn=average, use_buffers=True)


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
