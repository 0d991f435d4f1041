"""A network that learns: its weights and their average, its optimiser, and one step of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.bundle.manifest import AnyInput
from models.nets.multi_exit import MultiExitNet
from training.config import TrainConfig
from training.data.sources import Inputs
from training.distributed import World
from training.feed import Part
from training.fronts import front_of
from training.losses import annealed, distillation_loss, exit_wise_loss, mean_confidence, reachable
from training.optimizers import make_optimizer, scale_trunk_gradients, set_rates
from training.teacher import Teacher


class Learner:
    """Learns from the parts of a batch. `mean` and `std` normalise what `target` makes of rows.

    `loss_sum` and `num_correct` add up over the steps of an epoch.
    """

    def __init__(
        self,
        config: TrainConfig,
        world: World,
        net: MultiExitNet,
        target: AnyInput,
        mean: Tensor,
        std: Tensor,
        num_classes: int,
    ) -> None:
        self.config, self.world = config, world
        device = world.device
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.freeze == "backbone":
            self.net.segments.requires_grad_(requires_grad=False)
        self.infinite = {name for name, x in named_tensors(self.net) if not are_finite(x)}
        self.replica = world.wrap(self.net)
        self.forward: Callable[..., list[Tensor]] = self.replica
        if config.compile:  # on a GPU the compiled network is replayed as CUDA graphs
            mode = "reduce-overhead" if device.type == "cuda" else "default"
            self.forward = torch.compile(self.replica, mode=mode)
        self.average = None if config.ema_decay is None else averaged(self.net, config.ema_decay)
        self.optimizer = make_optimizer(self.net, config)
        self.is_bf16 = config.bf16 and computes_in_bf16(device)
        self.mean, self.std = mean.to(device), std.to(device)
        self.teacher: Teacher | None = None
        self.front = front_of(target, self.mean, self.std)
        self.distillation_temperature = torch.tensor(
            config.distillation_temperature or 1.0, dtype=torch.float64, device=device
        )
        self.confidence = reachable(config.distillation_confidence, num_classes)
        self.loss_sum = torch.zeros((), device=device)
        self.num_correct = torch.zeros(self.net.num_exits, dtype=torch.float64, device=device)

    @property
    def judged_net(self) -> nn.Module:
        """The weights to select by and to export: the average, where there is one."""
        return self.net if self.average is None else self.average

    @property
    def state(self) -> list[Tensor]:
        """The tensors that are finite unless the run diverged; an attention mask never was."""
        finite = (x for name, x in named_tensors(self.net) if name not in self.infinite)
        return [self.loss_sum, *finite]

    def learn(self, parts: Sequence[Part], rate: float) -> None:
        """One optimiser step on a batch, this process's parts of it."""
        config, world = self.config, self.world
        set_rates(self.optimizer, rate)
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
                self.distillation_temperature, confidence, self.confidence
            )

    def backward(self, part: Part, share: float) -> Tensor:
        """Adds the gradients of one part of the batch; returns its share of the confidence.

        Where images are mixed, so are the losses of their own labels and of their partners'.
        """
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.is_bf16):
            logits = [z.float() for z in self.forward(*part.inputs)]
            teacher_logits = None if self.teacher is None else self.teacher.logits(part.inputs)
        loss, own = self.loss(logits, part.labels, teacher_logits), part.own_share
        if own is not None:
            loss = own * loss + (1 - own) * self.loss(logits, part.partner_labels, teacher_logits)
        (loss * share).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.loss_sum += loss * share
            is_right = [z.argmax(dim=1) == part.labels for z in logits]
            self.num_correct += torch.stack(is_right).sum(dim=1)
            last = logits[-1] if teacher_logits is None else teacher_logits
            return mean_confidence(last, self.distillation_temperature) * share

    def loss(self, logits: list[Tensor], labels: Tensor, teacher_logits: Tensor | None) -> Tensor:
        """The configured loss, a scalar."""
        config = self.config
        if config.loss == "exit-wise":
            return exit_wise_loss(logits, labels, config.label_smoothing)
        temperature = self.distillation_temperature
        return distillation_loss(
            logits,
            labels,
            temperature,
            config.teachers,
            config.label_smoothing,
            teacher_logits,
        )

    def set_training(self) -> None:
        """A frozen backbone keeps its normalisation statistics too."""
        self.net.train()
        if self.config.freeze == "backbone":
            self.net.segments.eval()

    def judge(self, inputs: Inputs) -> list[Tensor]:
        """Logits of rows at every exit, by `judged_net` in the mode that it is in."""
        device = self.world.device
        ready = self.front.prepared([x.to(device) for x in inputs])
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=self.is_bf16):
            logits: list[Tensor] = self.judged_net(*ready)
        return logits


def named_tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights and all buffers, even if checkpoints leave them out."""
    return chain(net.named_parameters(), net.named_buffers())


def are_finite(*tensors: Tensor) -> bool:
    """Whether every value is a finite number."""
    largest = [x.detach().float().abs().max() for x in tensors if x.numel()]
    return not largest or bool(torch.stack(largest).isfinite().all())


def computes_in_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32: on processors without its instructions it is not."""
    return device.type == "cuda" or bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def averaged(net: MultiExitNet, decay: float) -> AveragedModel:
    """An exponential moving average of the weights and of the normalisation statistics."""
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(net, multi_avg_fn=average, use_buffers=True)
