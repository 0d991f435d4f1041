"""Examples of the OpenAPI document: requests that any image model answers, and answers."""

from math import prod
from typing import Any

import numpy as np

from models.bundle.image_input import ImageInput
from models.bundle.manifest import AnyInput
from models.bundle.tensor_input import RowTensor
from models.bundle.text_input import TextInput

PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR42mNk"
    "EIAAJgGKGACOGAQAwSeVywAAAABJRU5ErkJggg=="
)
EXAMPLE_VALUES = 1000
REQUESTS: dict[str, Any] = {
    "budget": {
        "summary": "One image, to be answered in 20 ms",
        "value": {"images": [PICTURE], "latency_budget_ms": 20, "top_k": 3},
    },
    "point": {
        "summary": "Two images, at another operating point",
        "value": {"images": [PICTURE, PICTURE], "operating_point": "fast"},
    },
    "trace": {
        "summary": "What every exit says, to the last",
        "value": {"images": [PICTURE], "threshold": 1, "trace": True},
    },
}
CLASSIFICATION: dict[str, Any] = {
    "model": "cifar100-msdnet",
    "version": 1,
    "label": "otter",
    "index": 55,
    "confidence": 0.7551,
    "top_k": [{"label": "otter", "index": 55, "probability": 0.7551}],
    "exit": 3,
    "num_exits": 7,
    "stop_reason": "confident",
    "budget": {"latency_ms": 20.0, "energy_mj": 50.0, "met": True},
    "cost": {
        "total_ms": 4.949,
        "queue_ms": 0.18,
        "compute_ms": 3.082,
        "energy_mj": 24.653,
        "energy_source": "estimate",
        "macs": 32344064,
    },
}
EXIT: dict[str, Any] = {
    "image": 0,
    "label": "seal",
    "index": 72,
    "confidence": 0.4102,
    "top_k": [{"label": "seal", "index": 72, "probability": 0.4102}],
    "exit": 1,
    "num_exits": 7,
    "at_ms": 2.114,
}


def example_of(takes: AnyInput) -> dict[str, Any] | None:
    """The body of a JSON request that a model with this input answers.

    None where a row has more numbers than a person wants to read.
    """
    if isinstance(takes, ImageInput):
        return {"images": [PICTURE]}
    if isinstance(takes, TextInput):
        return {"texts": [takes.example]}
    if sum(prod(tensor.shape) for tensor in takes.tensors) > EXAMPLE_VALUES:
        return None
    if len(takes.tensors) == 1:
        return {"rows": [least(takes.tensors[0])]}
    return {"rows": [{tensor.name: least(tensor) for tensor in takes.tensors}]}


def least(tensor: RowTensor) -> Any:  # noqa: ANN401
    """A value of the tensor's shape, as JSON has it: 0, or the smallest that is allowed."""
    value = 0 if tensor.span is None else tensor.span[0]
    return np.full(tensor.shape, value, tensor.dtype).tolist()
