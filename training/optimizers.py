"""From gradients to a step: SGD, Muon for matrices, and scaling between exits."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from models.nets.multi_exit import MultiExitNet
from training.config import TrainConfig

MATRIX_MOMENTUM = 0.95
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Jordan's coefficients. They are steep at zero; singular values end between 0.7 and 1.2."""
ITERATIONS = 5

Group = dict[str, Any]
"""Parameters and how they step; `share` is of the run's learning rate."""


class Muon(torch.optim.SGD):
    """SGD whose steps on matrices have singular values of about one (Jordan et al., 2024).

    A convolution's weight is a matrix with a row per output channel. Groups that are not of
    matrices take the step of SGD.
    """

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Replaces the gradients of matrices by orthogonalised momentum, then steps as SGD."""
        same_shape: defaultdict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        groups = [group["params"] for group in self.param_groups if group["is_matrices"]]
        for weight in chain.from_iterable(groups):
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(weight.grad)
            momentum: Tensor = state["momentum_buffer"]
            momentum.lerp_(weight.grad, 1 - MATRIX_MOMENTUM)
            weight.grad.lerp_(momentum, MATRIX_MOMENTUM)  # Nesterov's look ahead
            same_shape[weight.shape].append(weight.grad)
        for gradients in same_shape.values():
            updates = orthogonalised(torch.stack([g.flatten(1) for g in gradients]))
            for gradient, update in zip(gradients, updates, strict=True):
                gradient.copy_(update.view_as(gradient))
        super().step(closure)


def orthogonalised(matrices: Tensor) -> Tensor:
    """(n, rows, columns): each with its singular values near sqrt(max(1, rows / columns)).

    Five steps of a quintic Newton-Schulz iteration, for all matrices of a shape at once.
    """
    rows, columns = matrices.shape[1:]
    x = matrices.mT if rows > columns else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    scaled: Tensor = x * max(1, rows / columns) ** 0.5
    return scaled.mT if rows > columns else scaled


def make_optimizer(net: MultiExitNet, config: TrainConfig) -> torch.optim.SGD:
    """The run's optimiser, fused into one kernel; `set_rates` gives it a step's learning rates."""
    if config.optimizer == "sgd":
        groups = [sgd_group(part.parameters(), s, config) for part, s in trained(net, config)]
        return torch.optim.SGD(groups, fused=True)
    matrices = {id(matrix) for matrix in hidden_matrices(net)}
    groups = []
    for part, share in trained(net, config):
        weights = list(part.parameters())
        own = [p for p in weights if id(p) in matrices]
        others = [p for p in weights if id(p) not in matrices]
        groups += [matrix_group(own, share, config), sgd_group(others, share, config)]
    return Muon(groups, fused=True)


def trained(net: MultiExitNet, config: TrainConfig) -> list[tuple[nn.Module, float]]:
    """The weights that learn, in groups, with their shares of the learning rate."""
    if config.freeze == "backbone":
        return [(net.heads, 1.0)]
    if config.backbone_learning_rate is not None:
        share = config.backbone_learning_rate / config.learning_rate
        return [(net.segments, share), (net.heads, 1.0)]
    return [(net, 1.0)]


def sgd_group(parameters: Iterable[Tensor], share: float, config: TrainConfig) -> Group:
    """The configured SGD."""
    return {
        "params": list(parameters),
        "share": share,
        "is_matrices": False,
        "lr": share * config.learning_rate,
        "momentum": config.momentum,
        "nesterov": config.momentum > 0,
        "weight_decay": config.weight_decay,
    }


def matrix_group(matrices: Iterable[Tensor], share: float, config: TrainConfig) -> Group:
    """Muon's steps; weight decay shrinks the matrices as fast as SGD's would."""
    ratio = config.matrix_learning_rate / config.learning_rate
    return {
        "params": list(matrices),
        "share": share * ratio,
        "is_matrices": True,
        "lr": share * config.matrix_learning_rate,
        "momentum": 0.0,  # ours comes before the orthogonalisation
        "nesterov": False,
        "weight_decay": config.weight_decay / (1 - config.momentum) / ratio,
    }


def hidden_matrices(net: MultiExitNet) -> list[Tensor]:
    """The weights of convolutions and linear layers, except the linear ones that give logits."""
    last_layers = {id(m) for head in net.heads for m in head.modules() if isinstance(m, nn.Linear)}
    return [
        module.weight
        for module in net.modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and id(module) not in last_layers
    ]


def set_rates(optimizer: torch.optim.SGD, learning_rate: float) -> None:
    """Sets every group's learning rate to its share of this one."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["share"]


def scale_trunk_gradients(net: MultiExitNet) -> None:
    """Divides the gradients of segment k of K by K - k + 1, the exits that they are sums over.

    This is the gradient equilibrium of Li et al. (ICCV 2019): their scaling modules of 1 / n and
    (n - 1) / n where an exit leaves the trunk multiply up to just that factor.
    """
    for num_later, segment in enumerate(reversed(net.segments), start=1):
        gradients = [p.grad for p in segment.parameters() if p.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, 1 / num_later)
