"""From a request's input tensor to images. Pure."""

import numpy as np
from numpy.typing import NDArray

from models.bundle.manifest import Manifest
from server.errors import BadBody, BadParameter
from server.v2.request_schemas import InputTensor
from server.v2.tensors import uint8_of_bytes, uint8_of_json


def images_of(
    inputs: list[InputTensor], tail: memoryview, manifest: Manifest, max_rows: int
) -> NDArray[np.uint8]:
    """The one input as images, nothing allocated before all that is said of it is right."""
    (tensor,) = manifest.segments[0].inputs
    if [given.name for given in inputs] != [tensor.name]:
        raise BadParameter("inputs", f"there must be one, {tensor.name!r}")
    (given,) = inputs
    if given.datatype != "UINT8":
        raise BadParameter("inputs.0.datatype", f"{tensor.name} is UINT8")
    rows, *row_shape = given.shape or [0]
    if row_shape != list(tensor.shape[1:]) or not 1 <= rows <= max_rows:
        height, width, channels = tensor.shape[1:]
        raise BadParameter(
            "inputs.0.shape",
            f"{tensor.name} is [1 to {max_rows}, {height}, {width}, {channels}]",
        )
    num_bytes = given.parameters.binary_data_size
    if (num_bytes is None) == (given.data is None):
        raise BadParameter("inputs.0", "needs either data or parameters.binary_data_size")
    if len(tail) != (num_bytes or 0):
        raise BadBody(f"{len(tail)} bytes follow the JSON; it announces {num_bytes or 0}")
    if given.data is None:
        return uint8_of_bytes(tail, given.shape)
    return uint8_of_json(given.data, given.shape)
