"""What every rival is made of: one session per graph, bodies read, the network it serves."""

import io
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from models.bundle.bundle import Bundle
from models.bundle.image import fit_image
from models.bundle.image_input import ImageInput
from models.bundle.runner import ORT_ERRORS
from models.bundle.text_input import TextInput

Pixels = NDArray[np.uint8]
Answer = dict[str, Any]
Features = dict[str, NDArray[Any]]


class Network(Protocol):
    """Answers for one body, an encoded image or a text."""

    def read(self, body: bytes) -> Features:
        """One row, as the network takes it."""
        ...

    def answer(self, row: Features) -> Answer: ...


def reader_of(bundle: Bundle) -> Callable[[bytes], Features]:
    """Reads bodies as the server does, without its checks of what strangers send."""
    takes, (first, *_) = bundle.manifest.input, bundle.manifest.segments[0].inputs
    if isinstance(takes, TextInput):
        return text_reader(bundle.tokenizer, takes)
    target = bundle.manifest.image_input
    return lambda body: {first.name: decode(body, target)[None]}


def decode(body: bytes, target: ImageInput) -> Pixels:
    """(height, width, channels)."""
    return fit_image(Image.open(io.BytesIO(body)), target)


def text_reader(content: bytes, takes: TextInput) -> Callable[[bytes], Features]:
    """Reads texts with the tokenizer; a text alone needs no padding."""
    tokenizer = Tokenizer.from_buffer(content)
    tokenizer.no_padding()
    tokenizer.enable_truncation(takes.length_buckets[-1])

    def read(body: bytes) -> Features:
        said = tokenizer.encode(body.decode())
        columns = {
            "input_ids": said.ids,
            "attention_mask": said.attention_mask,
            "token_type_ids": said.type_ids,
        }
        return {name: np.array([columns[name]], np.int64) for name in takes.inputs}

    return read


def session(graph: str | bytes) -> ort.InferenceSession:
    """Runs a graph, from a file or its bytes, on the calling thread; so nothing spins."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = ORT_ERRORS
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
