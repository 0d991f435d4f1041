"""Image classifiers of the `transformers` library, cut into segments with exits between them."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from models.nets.layers import Chain, ConvHead, Head
from models.nets.multi_exit import MultiExitNet, NetError
from models.nets.vit import MeanTokenHead

PREFIX = "transformers:"
NUM_EXITS = 4
HEAD_CHANNELS = 128
Family = TypeVar("Family", bound=Callable[..., Any])
Parts = tuple[list[list[nn.Module]], nn.Module]
Normalisation = tuple[list[float], list[float]]
SETTINGS_FILE = "preprocessor_config.json"


class MeanPool(nn.Module):
    """The mean over all positions of (batch, channels, height, width)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-2, -1))


class ClassToken(nn.Module):
    """The first token of (batch, tokens, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


def pretrained(source: str, image_shape: Sequence[int], num_classes: int) -> MultiExitNet:
    """Loads a model from a directory or the hub; its weights are where training starts.

    The last exit is the model's own classifier, if it has as many classes. ResNet, ConvNeXt, ViT
    and MobileNet (1 and 2) are known.
    """
    model = load("AutoModelForImageClassification", source, num_classes)
    family = family_of(model, FAMILIES, source)
    refuse_other_images(model.config, source, image_shape)
    base = getattr(model, model.base_model_prefix)
    layers, last_head = family(base, model.classifier)
    segments = [Chain(*part) for part in layers]
    heads: list[nn.Module] = []
    x = [torch.zeros(1, image_shape[-1], *image_shape[:-1])]
    with torch.no_grad():
        for segment in segments[:-1]:
            x = segment.eval()(x)
            heads.append(early_head(x[0], num_classes))
    net = MultiExitNet(segments, [*heads, last_head])
    net.normalisation = normalisation_of(source, image_shape[-1])
    return net


def load(kind: str, source: str, num_classes: int) -> Any:  # noqa: ANN401
    """The model, by the class of `transformers` that `kind` names; raises NetError."""
    try:
        import transformers  # noqa: PLC0415 (optional)
    except ModuleNotFoundError as error:
        raise NetError(f"{error.name} is needed: pip install 'offramp[pretrained]'") from error
    with loading(source):
        return getattr(transformers, kind).from_pretrained(
            str(Path(source).expanduser()),
            num_labels=num_classes,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
        )


@contextmanager
def loading(source: str) -> Iterator[None]:
    """One sentence for what `transformers` raises: its errors have no common base."""
    try:
        yield
    except Exception as error:
        reason = f"{error}".strip().partition("\n")[0]
        raise NetError(f"{source} cannot be loaded: {reason}") from error


def family_of(model: Any, families: Mapping[str, Family], source: str) -> Family:  # noqa: ANN401
    """What takes a model of its kind apart; raises NetError for a kind that is not known."""
    kind = model.config.model_type
    if kind not in families:
        raise NetError(f"{source} is a {kind}; known are {', '.join(families)}")
    return families[kind]


def normalisation_of(source: str, channels: int) -> Normalisation | None:
    """The mean and deviation per channel that it was trained with, where that is said."""
    from transformers.utils.hub import cached_file  # noqa: PLC0415 (optional)

    with loading(source):
        file = cached_file(
            str(Path(source).expanduser()),
            SETTINGS_FILE,
            _raise_exceptions_for_missing_entries=False,
        )
        settings = json.loads(Path(file).read_text()) if file else {}
    if not settings.get("do_normalize", True):  # the others are there all the same, unused
        return [0.0] * channels, [1.0] * channels
    mean, std = settings.get("image_mean"), settings.get("image_std")
    return (mean, std) if mean and std else None


def refuse_other_images(config: Any, source: str, image_shape: Sequence[int]) -> None:  # noqa: ANN401
    height, width, channels = image_shape
    if config.num_channels != channels:
        raise NetError(f"{source} takes images of {config.num_channels} channels, not {channels}")
    size = getattr(config, "image_size", None)
    if config.model_type == "vit" and (height, width) != (size, size):
        raise NetError(
            f"{source} takes images of {size}x{size} pixels, not {width}x{height}: "
            f"--set image_size={size}"
        )


def resnet_parts(base: Any, classifier: nn.Module) -> Parts:  # noqa: ANN401
    first, *others = base.encoder.stages
    return [[base.embedder, first], *([stage] for stage in others)], Head(MeanPool(), classifier)


def convnext_parts(base: Any, classifier: nn.Module) -> Parts:  # noqa: ANN401
    first, *others = base.encoder.stages
    stages = [[base.embeddings, first], *([stage] for stage in others)]
    return stages, Head(MeanPool(), base.layernorm, classifier)


def vit_parts(base: Any, classifier: nn.Module) -> Parts:  # noqa: ANN401
    head = Head(base.layernorm, ClassToken(), classifier)
    return evenly([base.embeddings], list(base.layers), []), head


def mobilenet_v1_parts(base: Any, classifier: nn.Module) -> Parts:  # noqa: ANN401
    return evenly([base.conv_stem], list(base.layer), []), Head(MeanPool(), classifier)


def mobilenet_v2_parts(base: Any, classifier: nn.Module) -> Parts:  # noqa: ANN401
    last = [base.conv_1x1]
    return evenly([base.conv_stem], list(base.layer), last), Head(MeanPool(), classifier)


def evenly(
    first: list[nn.Module], blocks: list[nn.Module], last: list[nn.Module]
) -> list[list[nn.Module]]:
    """The blocks in NUM_EXITS runs of about equal length, with what comes before and after."""
    cuts = [len(blocks) * k // NUM_EXITS for k in range(NUM_EXITS + 1)]
    runs = [blocks[start:end] for start, end in pairwise(cuts)]
    return [[*first, *runs[0]], *runs[1:-1], [*runs[-1], *last]]


def early_head(features: Tensor, num_classes: int) -> nn.Module:
    """A head for a feature map, or for tokens."""
    if features.dim() == 4:
        return ConvHead(features.shape[1], HEAD_CHANNELS, num_classes, bias=False)
    return MeanTokenHead(features.shape[-1], num_classes)


FAMILIES: dict[str, Callable[[Any, nn.Module], Parts]] = {
    "resnet": resnet_parts,
    "convnext": convnext_parts,
    "vit": vit_parts,
    "mobilenet_v1": mobilenet_v1_parts,
    "mobilenet_v2": mobilenet_v2_parts,
}
"""What each kind of model is made of: layers by segment, and the last exit's head."""
