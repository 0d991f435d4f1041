"""What happens to an image before the network sees it, and the nodes that do it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from models.bundle.image_input import Resize
from training.attaching.errors import AttachError

IMAGES = "images"
"""Name of segment 1's input: uint8 (batch, height, width, channels)."""
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation that most networks with channels first were trained with."""
CENTRED = (0.5, 0.5)
"""The same of most networks with channels last: [-1, 1]."""
DEFAULT_SIZE = 224


@dataclass(frozen=True)
class Preprocessing:
    """Size and normalisation of images; mean and deviation are of pixels scaled to [0, 1].

    `is_raw` networks take uint8 pixels and normalise them themselves.
    """

    height: int
    width: int
    channels: int
    channels_first: bool
    resize: Resize
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_raw: bool = False

    def __str__(self) -> str:
        scaling = f"mean {numbers(self.mean)}, deviation {numbers(self.std)}"
        return (
            f"{self.height} x {self.width} pixels, {self.channels} channels "
            f"{'first' if self.channels_first else 'last'}, resize rule {self.resize}, "
            + ("raw pixels" if self.is_raw else scaling)
        )

    def nodes(self, output: str) -> tuple[list[NodeProto], list[TensorProto]]:
        """Nodes from `IMAGES` to `output`, the network's own input, and their constants.

        Whole planes are normalised, after the transposition: onnxruntime is several times as fast
        that way.
        """
        steps: list[tuple[str, list[str], dict[str, Any]]] = []
        constants = []
        if self.channels_first:
            steps.append(("Transpose", [], {"perm": [0, 3, 1, 2]}))
        if not self.is_raw:
            shape = (-1, 1, 1) if self.channels_first else (-1,)
            shift, scale = 255 * np.array(self.mean), 1 / (255 * np.array(self.std))
            steps.append(("Cast", [], {"to": TensorProto.FLOAT}))
            for op, name, values in (("Sub", "shift", shift), ("Mul", "scale", scale)):
                array = values.astype(np.float32).reshape(shape)
                constants.append(numpy_helper.from_array(array, f"images/{name}"))
                steps.append((op, [f"images/{name}"], {}))
        names = [IMAGES, *(f"images/{i}" for i in range(1, len(steps))), output]
        nodes = [
            helper.make_node(op, [source, *extra], [made], **attributes)
            for (op, extra, attributes), source, made in zip(steps, names, names[1:], strict=False)
        ]
        return nodes or [helper.make_node("Identity", [IMAGES], [output])], constants


def normalisation(
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    channels: int,
    *,
    channels_first: bool,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel: those given, else the usual ones."""
    usual = IMAGENET if channels_first and channels == 3 else tuple((x,) for x in CENTRED)
    found = []
    for name, given, default in (("--mean", mean, usual[0]), ("--std", std, usual[1])):
        values = given or default
        values = values * channels if len(values) == 1 else values
        if len(values) != channels:
            raise AttachError(f"{name} has {len(values)} numbers; images have {channels} channels")
        found.append(values)
    if min(found[1]) <= 0:
        raise AttachError("--std must be above 0")
    return found[0], found[1]


def numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
