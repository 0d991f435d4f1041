"""Graphs whose channels were aligned, beside what they were made of."""

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto

from training.exporting.align import Layout, aligned
from training.exporting.quantize import prepared


def run(
    model: ModelProto, inputs: dict[str, NDArray[np.generic]]
) -> dict[str, NDArray[np.float32]]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def widened(array: NDArray[np.generic], layout: Layout | None) -> NDArray[np.generic]:
    """Channels as a layout has them."""
    if layout is None:
        return array
    return np.where((layout >= 0)[:, None, None], array[:, layout], 0).astype(array.dtype)


def assert_aligned_alike(
    segments: Sequence[bytes], heads: Sequence[bytes], images: NDArray[np.uint8]
) -> None:
    """Every graph of a network computes the same once its channels are aligned."""
    given: dict[str, NDArray[np.generic]] = {"images": images}
    layouts: dict[str, Layout] = {}
    for segment, head in zip(segments, heads, strict=True):
        model = prepared(segment)
        expected = run(model, given)
        renewed, outputs = aligned(model, layouts)
        taken = {n: widened(given[n], layouts.get(n)) for n in [i.name for i in model.graph.input]}
        found = run(renewed, taken)
        for feature, array in expected.items():
            assert close(found[feature], widened(array, outputs.get(feature))), feature
        given, layouts = dict(expected), outputs
        model = prepared(head)
        read = {i.name: given[i.name] for i in model.graph.input}
        (logits,) = run(model, read).values()
        renewed, _ = aligned(model, layouts)
        taken = {n: widened(array, layouts.get(n)) for n, array in read.items()}
        (again,) = run(renewed, taken).values()
        assert close(again, logits)


def close(found: NDArray[np.float32], expected: NDArray[np.generic]) -> bool:
    scale = float(np.abs(expected.astype(np.float64)).max())
    return found.shape == expected.shape and np.allclose(found, expected, atol=1e-5 * scale)
