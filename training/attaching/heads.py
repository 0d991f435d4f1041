"""Exit heads that learn from pooled features to imitate the network's own answers."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.bundle.confidence import Floats
from training.attaching.features import Features, cache_lock, fingerprint
from training.attaching.pooling import Layer
from training.losses import (
    UNLABELLED,
    annealed,
    distillation_loss,
    exit_wise_loss,
    mean_confidence,
    reachable,
)
from training.progress import Progress

HIDDEN = 256
"""Width of a two-layer head: 1 % of the MACs of a small network for phones."""
LINEAR, TWO_LAYER = "linear", "two-layer"
KINDS = (LINEAR, TWO_LAYER)
STATISTICS_ROWS = 2_000
"""Rows that say how features are spread."""
CHUNK = 1_000
"""Rows that are answered at a time."""


@dataclass(frozen=True)
class Recipe:
    """How heads are trained: AdamW, its learning rate falling to zero along a cosine."""

    epochs: int = 20
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    dropout: float = 0.2
    distillation_confidence: float = 0.5
    min_steps: int = 750
    loss: Literal["distillation", "exit-wise"] = "distillation"


class PooledHead(nn.Module):
    """Standardised features through one or two linear layers."""

    def __init__(
        self, mean: Tensor, std: Tensor, kind: str, num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.mean: Tensor
        self.std: Tensor
        sizes = [len(mean), *([HIDDEN] if kind == TWO_LAYER else []), num_classes]
        self.linears = nn.ModuleList(map(nn.Linear, sizes, sizes[1:]))
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled: Tensor) -> Tensor:
        x = (pooled - self.mean) / self.std
        for index, linear in enumerate(self.linears):
            x = linear(x if index == 0 else self.dropout(torch.relu(x)))
        return x

    def layers(self) -> list[Layer]:
        """The same as plain linear layers, the standardisation inside the first."""
        found: list[Layer] = []
        for linear in self.linears:
            assert isinstance(linear, nn.Linear)
            weight, bias = linear.weight.detach().double(), linear.bias.detach().double()
            if not found:
                weight = weight / self.std.double()
                bias = bias - weight @ self.mean.double()
            found.append((weight.T.float().contiguous().numpy(), bias.float().numpy()))
        return found


LOSSES: dict[str, Callable[[Sequence[Tensor], Tensor, Tensor], Tensor]] = {
    "distillation": distillation_loss,
    "exit-wise": lambda logits, labels, _: exit_wise_loss(logits[:-1], labels),
}
"""Of the logits of all exits, the network's own the last; labels; the distillation temperature."""

Heads = dict[str, list[PooledHead]]
"""By kind, one for each place."""


def trained_heads(
    features: Features,
    labels: NDArray[np.int64] | None,
    recipe: Recipe,
    seed: int,
    directory: Path,
) -> Heads:
    """`train_heads`, or what it gave when it was called with the same before.

    The key includes the rows that heads learn from: another run may calibrate on some of them.
    """
    seen = hashlib.sha256(features.rows.tobytes())
    seen.update(b"" if labels is None else labels.tobytes())
    path = directory / f"heads-{fingerprint(recipe, seed, seen.hexdigest())}.pt"
    torch.manual_seed(seed)
    heads = new_heads(features, recipe)
    modules = all_heads(heads)
    with cache_lock(directory):
        if path.exists():
            modules.load_state_dict(torch.load(path, weights_only=True))
        else:
            train_heads(heads, features, labels, recipe)
            torch.save(modules.state_dict(), path.with_suffix(".new"))
            path.with_suffix(".new").rename(path)
    modules.eval()
    return heads


def all_heads(heads: Heads) -> nn.ModuleList:
    return nn.ModuleList([head for of_kind in heads.values() for head in of_kind])


def new_heads(features: Features, recipe: Recipe, kinds: Sequence[str] = KINDS) -> Heads:
    num_classes = features.logits.shape[1]
    mean, std = standard(features)
    statistics = list(zip(by_place(mean, features), by_place(std, features), strict=True))
    return {
        kind: [
            PooledHead(*standards, kind, num_classes, recipe.dropout) for standards in statistics
        ]
        for kind in kinds
    }


def train_heads(
    heads: Heads,
    features: Features,
    labels: NDArray[np.int64] | None,
    recipe: Recipe,
) -> None:
    """Trains the heads of every kind and place side by side.

    `labels`, one a row of the photos, add their cross-entropy where they are not negative; without
    any the loss is imitation alone. The distillation temperature is annealed as the paper has it.
    Exit-wise, labels are all that counts.
    """
    num_rows = len(features)
    modules = all_heads(heads)
    batch_size = min(recipe.batch_size, num_rows)
    steps_per_epoch = num_rows // batch_size
    epochs = max(recipe.epochs, -(-recipe.min_steps // steps_per_epoch))
    optimizer = torch.optim.AdamW(
        modules.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps_per_epoch)
    temperature = torch.tensor(1.0, dtype=torch.float64)
    target = reachable(recipe.distillation_confidence, features.logits.shape[1])
    truth = np.full(num_rows, UNLABELLED) if labels is None else labels[features.images]
    truth = np.where(truth < 0, UNLABELLED, truth)
    with Progress(epochs, "training heads", "epoch") as bar:
        for _ in range(epochs):
            order = torch.randperm(num_rows).numpy()
            for start in range(0, steps_per_epoch * batch_size, batch_size):
                rows = np.sort(order[start : start + batch_size])
                pooled, teacher = map(torch.from_numpy, features.batch(rows))
                parts = by_place(pooled, features)
                logits = [h(x) for hs in heads.values() for h, x in zip(hs, parts, strict=True)]
                known = torch.from_numpy(truth[rows])
                loss = LOSSES[recipe.loss]([*logits, teacher], known, temperature.float())
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                confidence = mean_confidence(teacher, temperature)
                temperature = annealed(temperature, confidence, target)
            bar.update()
            bar.describe(f"distillation temperature {temperature.item():.2f}")


def by_place(columns: Tensor, features: Features) -> tuple[Tensor, ...]:
    """The last axis in parts, those of one place each."""
    return torch.split(columns, list(features.widths), dim=-1)


def standard(features: Features) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each column, which is at least a thousandth of its place's largest."""
    rows = np.random.default_rng(0).permutation(len(features))[:STATISTICS_ROWS]
    pooled = torch.from_numpy(features.batch(np.sort(rows))[0]).double()
    mean, std = pooled.mean(dim=0), pooled.std(dim=0)
    parts = by_place(std, features)
    floors = [part.max().mul(1e-3).clamp(min=1e-6).expand_as(part) for part in parts]
    return mean.float(), torch.maximum(std, torch.cat(floors)).float()


def answers(heads: Sequence[PooledHead], features: Features) -> list[Floats]:
    """Logits of one head for each place: (rows, classes) each."""
    chunks = np.split(np.arange(len(features)), range(CHUNK, len(features), CHUNK))
    said = [answers_of_batch(heads, features, chunk) for chunk in chunks]
    return [np.concatenate(logits) for logits in zip(*said, strict=True)]


def answers_of_batch(
    heads: Sequence[PooledHead], features: Features, rows: NDArray[np.int64]
) -> list[Floats]:
    parts = by_place(torch.from_numpy(features.batch(rows)[0]), features)
    with torch.no_grad():
        return [head(part).numpy() for head, part in zip(heads, parts, strict=True)]
