"""A training run: its epochs, its data, and what a checkpoint keeps of it."""

from collections.abc import Callable
from pathlib import Path
from time import monotonic

import torch
from torch import Tensor
from tqdm import tqdm

from models.bundle.errors import Interrupted, UserError
from models.nets.presets import build
from training import checkpoint
from training.checkpoint import Checkpoint, CheckpointError
from training.config import TrainConfig, changes
from training.data import DataError
from training.data.errors import listed
from training.distributed import World
from training.feed import feed_of
from training.learner import Learner, are_finite
from training.origin import earlier_run, git_commit, take_weights
from training.progress import Progress
from training.run_data import open_data
from training.schedule import learning_rate
from training.selection import Selection
from training.teacher import teacher_of

LAST, BEST = "last.pt", "best.pt"
SAVE_INTERVAL_S = 600.0


class Stopped(Interrupted):
    """The run was asked to stop and has left a checkpoint; the message says how to go on."""


class Diverged(UserError):
    """The loss is no finite number any more; the message says what is kept."""


class Run(Learner):
    """A learner with data and progress: one training run in `directory`."""

    def __init__(
        self,
        config: TrainConfig,
        directory: Path,
        world: World,
        log: Callable[[str], None] = tqdm.write,
    ) -> None:
        self.directory = directory
        if config.micro_batches % world.size:
            raise UserError(
                f"{config.micro_batches} micro-batches cannot be shared by {world.size} processes; "
                f"try --set micro_batches={world.size}"
            )
        is_new = not (directory / LAST).exists()
        self.data = open_data(config, directory, is_new=is_new)
        if world.is_main:
            for note in self.data.notes:
                log(note)
        self.splits = self.data.splits
        self.feed = feed_of(self.data, config, world, log)
        if config.unlabelled_per_class and not self.feed.num_unlabelled:
            raise DataError(
                "no rows are left for unlabelled_per_class: every row has its label unless "
                "images_per_class or images_share is set"
            )
        self.labelled_per_batch = config.batch_size // (2 if self.feed.num_unlabelled else 1)
        if self.steps_per_epoch == 0:
            raise DataError(
                f"{self.feed.num_labelled} training rows do not fill one batch of "
                f"{config.batch_size}"
            )
        self.selection = Selection(self.data.train, self.splits.selection)
        torch.manual_seed(config.seed)
        net = build(config.net, self.data.train.shape, len(self.data.train.names)).to(world.device)
        if config.start_from is not None:
            earlier = earlier_run(Path(config.start_from) / BEST, self.data)
            take_weights(net, earlier, self.data, config)
            net.normalisation = earlier.mean, earlier.std
        if net.normalisation is not None:
            self.feed.mean, self.feed.std = (torch.tensor(x) for x in net.normalisation)
        target, mean, std = self.data.train.target, self.feed.mean, self.feed.std
        num_classes = len(self.data.train.names)
        super().__init__(config, world, net, target, mean, std, num_classes)
        if config.teacher is not None:
            saved = earlier_run(Path(config.teacher) / BEST, self.data)
            self.teacher = teacher_of(saved, config, self.data, self.mean, self.std)
        self.epoch, self.step, self.order = 0, 0, torch.empty(0, dtype=torch.int64)
        self.best_score, self.is_asked_to_stop = -1.0, False
        self.git_commit = git_commit()

    @property
    def steps_per_epoch(self) -> int:
        """Every labelled row is seen once; the last, incomplete batch is dropped."""
        return self.feed.num_labelled // self.labelled_per_batch

    def restore(self, saved: Checkpoint) -> None:
        """Takes over everything a checkpoint holds."""
        if differing := changes(saved.config, self.config):
            raise CheckpointError(
                f"{self.directory} holds a run with another configuration: {listed(differing)}"
            )
        checkpoint.fill(self.net, saved.net, saved.config)
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

    def train_step(self) -> None:
        """One optimiser step on the next batch of the epoch, this process's parts of it."""
        rate = learning_rate(self.config, self.epoch + self.step / self.steps_per_epoch)
        self.learn(self.feed.parts(self.order, self.epoch, self.step), rate)
        self.step += 1
        self.is_asked_to_stop = self.world.any(self.is_asked_to_stop)

    def train_epoch(self) -> tuple[float, list[float]]:
        """Mean loss and training accuracy per exit of one epoch, of this process's rows.

        Begins where the epoch was left, if it was. Raises Stopped after a step, once asked to.
        """
        self.set_training()
        if self.step == 0:
            self.order = self.world.shared(self.feed.order())
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
                    if are_finite(*self.state):  # this process alone decides: clocks differ
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

    def epoch_means(self) -> tuple[float, list[float]]:
        """Mean loss, and training accuracy per exit, of this process's rows of the epoch so far."""
        num_rows = self.step * self.labelled_per_batch / self.world.size
        return self.loss_sum.item() / self.step, (self.num_correct / num_rows).tolist()

    def selection_accuracy(self) -> list[float]:
        """Accuracy per exit on the selection split, of the averaged weights where there are any."""
        self.judged_net.eval()
        return self.selection.accuracy(self.judge)

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


def by_exit(split: str, accuracy: list[float]) -> dict[str, float]:
    return {f"{split}/accuracy_exit_{k}": a for k, a in enumerate(accuracy, start=1)}


def percents(shares: list[float]) -> str:
    return " ".join(f"{100 * share:.1f}" for share in shares)
