"""What a step makes of the gradients: SGD, Muon for matrices, and scaling between exits."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.nets.multi_exit import MultiExitNet
from training.config import TrainConfig

MATRIX_MOMENTUM = 0.95
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Jordan's coefficients. They are steep at zero; singular values end between 0.7 and 1.2."""
ITERATIONS = 5


class Muon(torch.optim.SGD):
    """SGD whose steps on matrices have singular values of about one (Jordan et al., 2024).

    A convolution's weight is a matrix with a row per output channel. Every other parameter takes
    the step of SGD. Weight decay shrinks the matrices as fast as SGD's would.
    """

    def __init__(
        self, matrices: Sequence[Tensor], others: Sequence[Tensor], config: TrainConfig
    ) -> None:
        rate = config.matrix_learning_rate
        sgd_rate = config.learning_rate / (1 - config.momentum)
        matrix_group = {
            "params": list(matrices),
            "lr": rate,
            "momentum": 0.0,  # ours comes before the orthogonalisation
            "nesterov": False,
            "weight_decay": config.weight_decay * sgd_rate / rate,
        }
        super().__init__([matrix_group, *sgd_groups(others, config)], fused=True)

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Replaces the gradients of matrices by orthogonalised momentum, then steps as SGD."""
        same_shape: defaultdict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for weight in self.param_groups[0]["params"]:
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
    """The run's optimiser; `set_rates` gives it a step's learning rates."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(sgd_groups(list(net.parameters()), config), fused=True)
    matrices = hidden_matrices(net)
    ids = {id(matrix) for matrix in matrices}
    return Muon(matrices, [p for p in net.parameters() if id(p) not in ids], config)


def sgd_groups(parameters: Sequence[Tensor], config: TrainConfig) -> list[dict[str, object]]:
    """One parameter group with the configured SGD."""
    return [
        {
            "params": list(parameters),
            "lr": config.learning_rate,
            "momentum": config.momentum,
            "nesterov": config.momentum > 0,
            "weight_decay": config.weight_decay,
        }
    ]


def hidden_matrices(net: MultiExitNet) -> list[Tensor]:
    """The weights of convolutions and linear layers, except the linear ones that give logits."""
    last_layers = {id(m) for head in net.heads for m in head.modules() if isinstance(m, nn.Linear)}
    return [
        module.weight
        for module in net.modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and id(module) not in last_layers
    ]


def set_rates(optimizer: torch.optim.SGD, config: TrainConfig, share: float) -> None:
    """Sets every group's learning rate to a share of its configured one."""
    matrix_rates = [config.matrix_learning_rate] if config.optimizer == "muon" else []
    rates = [*matrix_rates, config.learning_rate]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = share * rate


def scale_trunk_gradients(net: MultiExitNet) -> None:
    """Divides the gradients of segment k of K by K - k + 1, the exits that they are sums over.

    This is the gradient equilibrium of Li et al. (ICCV 2019): their scaling modules of 1 / n and
    (n - 1) / n where an exit leaves the trunk multiply up to just that factor.
    """
    for num_later, segment in enumerate(reversed(net.segments), start=1):
        gradients = [p.grad for p in segment.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, 1 / num_later)
