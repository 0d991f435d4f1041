"""Plain: the whole network as one graph, from a bundle or from the file it was attached from."""

from pathlib import Path

import numpy as np
import onnx
from onnx import compose, helper

from benchmarks.rivals.networks import Answer, Features, decode, reader_of, session
from benchmarks.rivals.setup import Colour
from models.bundle.bundle import Bundle


class Uncut:
    """A bundle's segments and its last exit head in one session."""

    def __init__(self, bundle: Bundle) -> None:
        self.read, self._labels = reader_of(bundle), bundle.manifest.labels
        self._session = session(uncut(bundle).SerializeToString())

    def answer(self, row: Features) -> Answer:
        ((logits,),) = self._session.run(None, row)
        index = int(logits.argmax())
        confidence = float(1 / np.exp(logits - logits[index]).sum())
        return {"index": index, "label": self._labels[index], "confidence": confidence}


class Original:
    """An ONNX file as its owner has it: normalised float32 images, (1, channels, height, width).

    Sizes, resize rule and labels are those of the bundle made from it.
    """

    def __init__(self, bundle: Bundle, path: Path, mean: Colour, std: Colour) -> None:
        self._target, self._labels = bundle.manifest.image_input, bundle.manifest.labels
        self._session = session(str(path))
        self._input = self._session.get_inputs()[0].name
        channels = slice(self._target.channels), None, None
        self._shift = 255 * np.array(mean, np.float32)[channels]
        self._scale = 1 / (255 * np.array(std, np.float32))[channels]

    def read(self, body: bytes) -> Features:
        image = decode(body, self._target).transpose(2, 0, 1)
        return {self._input: ((image - self._shift) * self._scale)[None]}

    def answer(self, row: Features) -> Answer:
        ((scores,),) = self._session.run(None, row)
        index = int(scores.argmax())
        return {"index": index, "label": self._labels[index], "score": float(scores[index])}


def uncut(bundle: Bundle) -> onnx.ModelProto:
    """All segments and the last exit head as one graph, without the heads before it.

    The names of features link one graph to the next; all other names get a prefix.
    """
    manifest = bundle.manifest
    parts = [
        compose.add_prefix(
            onnx.load_model_from_string(bundle.graphs[graph.file]),
            f"{graph.file}/",
            rename_inputs=False,
            rename_outputs=False,
        )
        for graph in (*manifest.segments, manifest.exit_heads[-1])
    ]
    first, last = parts[0], parts[-1]
    graph = helper.make_graph(
        [node for part in parts for node in part.graph.node],
        "uncut",
        first.graph.input,
        last.graph.output,
        [tensor for part in parts for tensor in part.graph.initializer],
    )
    return helper.make_model(graph, opset_imports=first.opset_import, ir_version=first.ir_version)
