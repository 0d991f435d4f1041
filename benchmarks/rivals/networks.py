"""What every rival is made of: one session per graph, images decoded, the network it serves."""

import io
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from models.bundle.image import fit_image
from models.bundle.image_input import ImageInput
from models.bundle.runner import ORT_ERRORS

Pixels = NDArray[np.uint8]
Answer = dict[str, Any]


class Network(Protocol):
    """Answers for one image, (height, width, channels) of `target`."""

    target: ImageInput

    def answer(self, image: Pixels) -> Answer: ...


def decode(body: bytes, target: ImageInput) -> Pixels:
    """An encoded image as the server decodes it, without its checks of strangers' images."""
    image = Image.open(io.BytesIO(body))
    return fit_image(image, target)


def session(graph: str | bytes) -> ort.InferenceSession:
    """Runs a graph, from a file or its bytes, on the calling thread; so nothing spins."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = ORT_ERRORS
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
