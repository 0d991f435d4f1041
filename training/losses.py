"""Losses over the logits of all exits: pure functions of tensors.

Conventions are those of the code published with Phuong & Lampert (ICCV 2019); logits are a
sequence of (batch, classes) tensors, first exit to last, and labels are (batch,) class indices.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

DISTILLATION_WEIGHT = 0.5
LOSS_SCALE = 10.0
"""At learning rate 0.1 the scaled loss takes the step of the paper's mean over exits at 0.5."""


def exit_wise_loss(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """The baseline: the sum over exits of their cross-entropy."""
    return torch.stack([F.cross_entropy(z, labels) for z in logits]).sum()


def distillation_loss(
    logits: Sequence[Tensor], labels: Tensor, distillation_temperature: float
) -> Tensor:
    """Cross-entropy at every exit, and of every earlier exit against the detached last one.

    With M exits and weight 1/2: 10 / M * (sum of CE_m / 2 + sum over m < M of tau^2 / 2 * H_m),
    where H_m is the cross-entropy of exit m's prediction against the last exit's, both softened
    by the distillation temperature tau.
    """
    teacher = softened(logits[-1].detach(), distillation_temperature)
    scale = distillation_temperature**2
    total = (1 - DISTILLATION_WEIGHT) * exit_wise_loss(logits, labels)
    for z in logits[:-1]:
        imitation = F.cross_entropy(z / distillation_temperature, teacher)
        total = total + DISTILLATION_WEIGHT * scale * imitation
    return LOSS_SCALE / len(logits) * total


def softened(logits: Tensor, distillation_temperature: float) -> Tensor:
    """Probabilities after dividing the logits by the distillation temperature."""
    return torch.softmax(logits / distillation_temperature, dim=1)


def annealed(
    distillation_temperature: float, last_logits: Tensor, confidence: float, factor: float = 1.05
) -> float:
    """The temperature for the next batch: raised while the last exit is too confident.

    Rises by `factor` when the batch mean of the largest softened probability exceeds `confidence`;
    never falls.
    """
    largest = softened(last_logits.detach(), distillation_temperature).amax(dim=1)
    is_confident = largest.mean().item() > confidence
    return distillation_temperature * factor if is_confident else distillation_temperature
