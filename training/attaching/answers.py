"""What the network itself says, asked as it was before it was cut."""

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto

from models.bundle.confidence import Floats, calibrated_probabilities
from models.bundle.defaults import CPU
from models.bundle.runner import Arrays
from training.attaching.errors import AttachError
from training.attaching.program import session_options
from training.attaching.read import Network, inputs_of
from training.attaching.reading import Reading

TOLERANCE = 1e-3
"""Largest difference of a logit or probability, as a share of the largest there is."""
HALF_TOLERANCE = 3e-2
"""The same where the network computes in float16 and its exits in float32."""


class Original:
    """The file as it came, in onnxruntime, with images normalised in front of it."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.inputs = inputs_of(network.original)
        self.session = ort.InferenceSession(
            network.original.SerializeToString(),
            session_options(ort.GraphOptimizationLevel.ORT_ENABLE_ALL),
            providers=[CPU],
        )

    def __call__(self, inputs: Arrays) -> Floats:
        """Its output, (rows, classes), for what segment 1 takes."""
        prepared, num_rows = self.prepared(inputs), len(inputs[0])
        step = self.network.fixed_batch or num_rows
        outputs = [
            self.session.run(None, {n: x[start : start + step] for n, x in prepared.items()})
            for start in range(0, num_rows, step)
        ]
        kept = [value.name for value in self.session.get_outputs()].index(self.network.output)
        rows = np.concatenate([output[kept] for output in outputs])
        return rows.reshape(num_rows, -1).astype(np.float32)

    def prepared(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        preprocessing = self.network.preprocessing
        if isinstance(preprocessing, Reading):
            return dict(zip(preprocessing.inputs, inputs, strict=True))
        (image,), (images,) = self.inputs, inputs
        pixels: NDArray[np.generic] = images
        if not preprocessing.is_raw:
            mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)
            is_half = image.type.tensor_type.elem_type == TensorProto.FLOAT16
            pixels = ((images / 255 - mean) / std).astype(np.float16 if is_half else np.float32)
        if preprocessing.channels_first:
            pixels = pixels.transpose(0, 3, 1, 2)
        return {image.name: np.ascontiguousarray(pixels)}


def check_last_exit(network: Network, logits: Floats, inputs: Arrays) -> float:
    """The largest difference between the last exit and the network itself; raises AttachError."""
    expected = Original(network)(inputs)
    found = calibrated_probabilities(logits, 1.0) if network.gives_probabilities else logits
    if expected.shape != found.shape:
        raise AttachError(
            f"the network gives {expected.shape[1]} scores, its exits {found.shape[1]}"
        )
    difference = float(np.abs(expected - found).max() / max(1.0, np.abs(expected).max()))
    allowed = HALF_TOLERANCE if network.is_half else TOLERANCE
    if not difference <= allowed:
        raise AttachError(
            f"cut into exits the network answers differently: by {difference:.2g} of its largest "
            f"score, {allowed} is allowed"
        )
    return difference
