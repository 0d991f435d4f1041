"""Losses over the logits of all exits: pure functions of tensors.

Logits are a sequence of (batch, classes) tensors, first exit to last; labels are (batch,) class
indices, `UNLABELLED` where a row has none. Each cross-entropy is a mean over its rows.

Two scales of the same loss are in use. Phuong & Lampert (ICCV 2019) write a mean over exits, CE
plus imitation, and train it at learning rate 0.5. Their published code halves both terms, sums
over exits and multiplies by 10 / exits, which is five times the paper's, and trains at 0.1: the
same gradient step, but weight decay then acts at a fifth of the rate. Ours is the code's, since
it made the published numbers. The code's baseline is the plain sum of the exits' cross-entropies,
also at 0.1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from training.config import Teachers

UNLABELLED = -100
DISTILLATION_WEIGHT = 0.5
LOSS_SCALE = 10.0
RISE = 1.05


def exit_wise_loss(
    logits: Sequence[Tensor], labels: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """The baseline: the sum over exits of their cross-entropy on labelled rows, 0 without any.

    `label_smoothing` is the share of each label that is spread evenly over all classes.
    """
    num_labelled = (labels != UNLABELLED).sum().clamp(min=1)
    sums = [
        F.cross_entropy(z, labels, reduction="sum", label_smoothing=label_smoothing) for z in logits
    ]
    return torch.stack(sums).sum() / num_labelled


def distillation_loss(
    logits: Sequence[Tensor],
    labels: Tensor,
    distillation_temperature: Tensor | float,
    teachers: Teachers = "last",
    label_smoothing: float = 0.0,
    teacher_logits: Tensor | None = None,
) -> Tensor:
    """Cross-entropy at every exit, and of every earlier exit against its detached teachers.

    With M exits and weight 1/2: 10 / M * (sum of CE_m / 2 + sum over m < M of tau^2 / 2 * H_m).
    CE_m is over labelled rows; H_m, over all rows, is the cross-entropy of exit m's prediction
    against the last exit's, its mean over all later exits, or its mean over all exits, all softened
    by the distillation temperature tau. Rows without a label make this the paper's semi-supervised
    loss. Every exit, the last too, imitates another network's `teacher_logits` if there are any.
    """
    targets = targets_of(logits, distillation_temperature, teachers, teacher_logits)
    imitation = torch.zeros((), device=labels.device)
    for z, target in zip(logits, targets, strict=False):
        imitation = imitation + F.cross_entropy(z / distillation_temperature, target)
    total = (1 - DISTILLATION_WEIGHT) * exit_wise_loss(logits, labels, label_smoothing)
    total = total + DISTILLATION_WEIGHT * distillation_temperature**2 * imitation
    return LOSS_SCALE / len(logits) * total


def targets_of(
    logits: Sequence[Tensor],
    distillation_temperature: Tensor | float,
    teachers: Teachers,
    teacher_logits: Tensor | None,
) -> list[Tensor]:
    """What each exit imitates, softened; for the last exit only if another network teaches."""
    if teacher_logits is not None:
        return [softened(teacher_logits, distillation_temperature)] * len(logits)
    first_teacher = {"last": len(logits) - 1, "all-later": 1, "ensemble": 0}[teachers]
    targets = [softened(z.detach(), distillation_temperature) for z in logits[first_teacher:]]
    by_exit = [targets[m:] if teachers == "all-later" else targets for m in range(len(logits) - 1)]
    return [torch.stack(each).mean(dim=0) for each in by_exit]


def softened(logits: Tensor, distillation_temperature: Tensor | float) -> Tensor:
    """Probabilities after dividing the logits by the distillation temperature."""
    return torch.softmax(logits / distillation_temperature, dim=1)


def mean_confidence(logits: Tensor, distillation_temperature: Tensor | float) -> Tensor:
    """The batch mean of the largest softened probability, a scalar."""
    return softened(logits.detach(), distillation_temperature).amax(dim=1).mean()


def reachable(target: float, num_classes: int) -> float:
    """The confidence to anneal to: `target`, but at least 1.5 times that of an even guess.

    At no temperature is it below 1 / classes: to reach a lower target the temperature would rise
    without end. Of two classes 1.5 / classes is midway between an even guess and certainty. The
    paper's targets, 0.5 of 100 classes and 0.1 of 1000, are far above.
    """
    return max(target, 1.5 / num_classes)


def annealed(distillation_temperature: Tensor, confidence: Tensor, target: float) -> Tensor:
    """The temperature for the next batch: raised while the last exit is too confident.

    `confidence` is the last exit's `mean_confidence` on a training batch at this temperature.
    Above `target`, which is `reachable`, the temperature is multiplied by `RISE`; it never falls.
    """
    raised = distillation_temperature * RISE
    return torch.where(confidence > target, raised, distillation_temperature)
