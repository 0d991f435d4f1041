"""A teacher: the network of an earlier run, as it was when that run ended."""

from collections.abc import Callable

import torch
from torch import Tensor

from models.nets.multi_exit import Features
from training.checkpoint import Checkpoint, CheckpointError
from training.config import TrainConfig
from training.origin import refuse_other_inputs
from training.run_data import RunData


class Teacher:
    """Answers what the student is trained on. `mean` and `std` are what the student normalises by.

    `forward` is the teacher's network, `own_mean` and `own_std` what it was trained with.
    """

    def __init__(
        self,
        forward: Callable[..., list[Tensor]],
        own_mean: Tensor,
        own_std: Tensor,
        mean: Tensor,
        std: Tensor,
    ) -> None:
        self.forward = forward
        self.scale, self.shift = std / own_std, (mean - own_mean) / own_std

    def logits(self, inputs: Features) -> Tensor:
        """Its last exit's, (rows, classes) float32, of inputs normalised for the student."""
        if len(self.scale):
            (values,) = inputs
            per_channel = [-1, *[1] * (values.dim() - 2)]
            inputs = [values * self.scale.view(per_channel) + self.shift.view(per_channel)]
        with torch.no_grad():
            return self.forward(*inputs)[-1].float()


def teacher_of(
    saved: Checkpoint, config: TrainConfig, data: RunData, mean: Tensor, std: Tensor
) -> Teacher:
    """The best weights of a run on the same data; `mean` and `std` are the student's.

    Raises CheckpointError where that run made something else of its rows, or cut texts shorter.
    """
    refuse_other_inputs(saved, data, f"{config.teacher}")
    longest, needed = saved.shape[-1], data.train.shape[-1]
    if data.tokenizer and longest < needed:
        raise CheckpointError(
            f"{config.teacher} cuts texts at {longest} tokens, not at {needed}: --set "
            f"max_tokens={longest}"
        )
    device = mean.device
    net = saved.network().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    forward: Callable[..., list[Tensor]] = torch.compile(net) if config.compile else net
    own_mean, own_std = (torch.tensor(x, device=device) for x in (saved.mean, saved.std))
    return Teacher(forward, own_mean, own_std, mean, std)
