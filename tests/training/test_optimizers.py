import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.nets.multi_exit import Features, MultiExitNet
from models.nets.presets import build
from training.config import TrainConfig
from training.optimizers import (
    MATRIX_MOMENTUM,
    Muon,
    hidden_matrices,
    make_optimizer,
    matrix_group,
    orthogonalised,
    scale_trunk_gradients,
    set_rates,
    sgd_group,
)


def config(**options: object) -> TrainConfig:
    return TrainConfig.model_validate({"data": "digits", "net": "msdnet-tiny"} | options)


def tiny() -> MultiExitNet:
    torch.manual_seed(0)
    return build("msdnet-tiny", (8, 8, 1), 10)


@pytest.mark.parametrize("shape", [(3, 8, 40), (2, 40, 8), (1, 16, 16)])
def test_singular_values_become_about_one_and_directions_stay(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    scale = max(1, shape[1] / shape[2]) ** 0.5
    for before, after in zip(matrices, orthogonalised(matrices) / scale, strict=True):
        u, values, v = np.linalg.svd(before.numpy(), full_matrices=False)
        found = u.T @ after.numpy() @ v.T
        is_large = values > 0.05 * values.max()  # five steps do not lift the smallest ones
        assert np.abs(found - np.diag(np.diag(found))).max() < 1e-4
        assert np.diag(found)[is_large] == pytest.approx(1, abs=0.35)


def test_nothing_comes_of_no_gradient() -> None:
    assert orthogonalised(torch.zeros(1, 3, 4)).eq(0).all()


def test_a_matrix_takes_the_orthogonalised_step_and_a_bias_that_of_sgd() -> None:
    weight = nn.Parameter(torch.randn(4, 2, 3, 3))
    bias = nn.Parameter(torch.ones(4))
    settings = config(optimizer="muon", learning_rate=0.1, momentum=0.9, weight_decay=0.01)
    groups = [matrix_group([weight], 1.0, settings), sgd_group([bias], 1.0, settings)]
    optimizer = Muon(groups, fused=True)
    before, gradient = weight.detach().clone(), torch.randn_like(weight)
    weight.grad, bias.grad = gradient.clone(), torch.ones(4)
    optimizer.step()
    # the momentum's first value is a multiple of the gradient, so its direction is the gradient's
    update = orthogonalised(gradient.reshape(1, 4, 18)).view_as(weight)
    shrunk = before * (1 - 0.01 * 0.1 / (1 - 0.9))
    assert torch.allclose(weight.detach(), shrunk - 0.02 * update, atol=1e-5)
    sgd_step = 0.1 * (1 + 0.9) * (1 + 0.01)  # Nesterov looks ahead; decay is part of the gradient
    assert bias.tolist() == pytest.approx([1 - sgd_step] * 4)


def test_momentum_is_an_average_of_gradients() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    settings = config(optimizer="muon", weight_decay=0)
    optimizer = Muon([matrix_group([weight], 1.0, settings)], fused=True)
    one, other = torch.eye(2), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    for gradient in (one, other):
        weight.grad = gradient.clone()
        optimizer.step()
    expected = (1 - MATRIX_MOMENTUM) * (MATRIX_MOMENTUM * one + other)
    assert torch.allclose(optimizer.state[weight]["momentum_buffer"], expected)


def test_muon_has_every_convolution_and_sgd_every_other_weight() -> None:
    net = tiny()
    optimizer = make_optimizer(net, config(optimizer="muon"))
    matrices, others = (group["params"] for group in optimizer.param_groups)
    num_convolutions = sum(isinstance(m, nn.Conv2d) for m in net.modules())
    assert len(matrices) == len(hidden_matrices(net)) == num_convolutions
    assert all(m.ndim == 4 for m in matrices)
    assert len(matrices) + len(others) == len(list(net.parameters()))
    assert sum(p.ndim == 2 for p in others) == net.num_exits  # what makes the logits


def test_a_transformers_linear_layers_are_matrices_but_for_the_logits() -> None:
    net = build("vit-tiny", (32, 32, 3), 10)
    shapes = {tuple(m.shape) for m in hidden_matrices(net)}
    assert shapes == {(192, 3, 4, 4), (576, 192), (192, 192), (768, 192), (192, 768)}


RATES: list[tuple[dict[str, object], list[float]]] = [
    ({}, [0.025]),
    ({"freeze": "backbone"}, [0.025]),
    ({"backbone_learning_rate": 0.01}, [0.005, 0.025]),
    ({"optimizer": "muon"}, [0.01, 0.025]),
    ({"optimizer": "muon", "freeze": "backbone"}, [0.01, 0.025]),
    ({"optimizer": "muon", "backbone_learning_rate": 0.01}, [0.002, 0.005, 0.01, 0.025]),
]


@pytest.mark.parametrize(("options", "expected"), RATES)
def test_every_group_has_its_share_of_the_rate(
    options: dict[str, object], expected: list[float]
) -> None:
    settings = config(learning_rate=0.05, matrix_learning_rate=0.02, **options)
    made = make_optimizer(tiny(), settings)
    set_rates(made, 0.025)
    assert [group["lr"] for group in made.param_groups] == pytest.approx(expected)


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_every_weight_that_learns_is_in_one_group(optimizer: str) -> None:
    net = tiny()
    whole, parted, frozen = (
        make_optimizer(net, config(optimizer=optimizer, **options))
        for options in ({}, {"backbone_learning_rate": 0.01}, {"freeze": "backbone"})
    )
    expected = [net, net, net.heads]
    for made, part in zip((whole, parted, frozen), expected, strict=True):
        found = [id(p) for group in made.param_groups for p in group["params"]]
        assert sorted(found) == sorted(map(id, part.parameters()))


def test_matrices_of_the_backbone_take_smaller_steps() -> None:
    net = tiny()
    settings = config(optimizer="muon", backbone_learning_rate=0.01, weight_decay=0)
    optimizer = make_optimizer(net, settings)
    set_rates(optimizer, settings.learning_rate)
    segment, head = net.segments[0], net.heads[0]
    weights = [next(p for p in part.parameters() if p.ndim == 4) for part in (segment, head)]
    before = [weight.detach().clone() for weight in weights]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    gradients = [weight.grad.clone() for weight in weights if weight.grad is not None]
    optimizer.step()
    for weight, start, gradient, rate in zip(
        weights, before, gradients, (0.002, 0.02), strict=True
    ):
        update = orthogonalised(gradient.flatten(1)[None])[0].view_as(weight)
        assert torch.allclose(weight.detach(), start - rate * update, atol=1e-5)


class Scale(torch.autograd.Function):
    """The identity, whose gradient is multiplied: the module of Li et al. (2019)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor  # type: ignore[attr-defined]
        return x.view_as(x)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor
    ) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None  # type: ignore[attr-defined]


def scaled(x: Tensor, factor: float) -> Tensor:
    result: Tensor = Scale.apply(x, factor)  # type: ignore[no-untyped-call]
    return result


def test_gradients_are_those_of_scaling_modules_at_every_exit() -> None:
    net, images = tiny().eval(), torch.randn(4, 1, 8, 8)
    loss = torch.stack([z.square().mean() for z in net(images)]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    scale_trunk_gradients(net)
    found = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    features: Features = [images]
    loss = torch.zeros(())
    for num_exits, (segment, head) in zip((3, 2, 1), net.split(), strict=True):
        features = segment(features)
        to_head = [scaled(x, 1 / num_exits) for x in features]
        features = [scaled(x, (num_exits - 1) / num_exits) for x in features]
        loss = loss + head(to_head).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    expected = {n: p.grad for n, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert expected.keys() <= found.keys()
    assert len(expected) > 20
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-7), name
