"""Graphs with 8-bit weights and activations, their ranges taken from real images.

ONNX's QDQ format: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from models.bundle.bundle import sha256
from models.bundle.confidence import Floats
from models.bundle.manifest import Graph
from models.bundle.runner import Arrays, SegmentRunner
from training.graphs import ExportError
from training.measures import Labels

QUANTIZED = ("Conv", "Concat", "Gemm", "MatMul", "AveragePool", "GlobalAveragePool", "Relu")
"""Whole chains of these run on 8-bit numbers; between others they would be converted back."""
BATCH_ROWS = 32
MAX_ACCURACY_DROP = 0.02
"""What 8 bits may cost any exit on the calibration split."""

Graphs = tuple[list[Graph], list[Graph], dict[str, bytes]]
"""Entries of segments and of exit heads, and every graph by file."""


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """A graph's inputs, batch by batch."""

    def __init__(self, graph: Graph, features: Sequence[Arrays]) -> None:
        names = [tensor.name for tensor in graph.inputs]
        self._batches: Iterator[dict[str, Any]] = (
            dict(zip(names, arrays, strict=True)) for arrays in features
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def quantized(
    segments: Sequence[Graph],
    heads: Sequence[Graph],
    content: Mapping[str, bytes],
    images: NDArray[np.uint8],
) -> Graphs:
    """The same graphs in int8; features between them stay float32.

    `images`, (rows, height, width, channels), are what the ranges are taken from, as the float
    graphs see them.
    """
    runner = SegmentRunner(segments, heads, content)
    features: list[Arrays] = [
        [batch] for batch in np.array_split(images, -(-len(images) // BATCH_ROWS))
    ]
    made: dict[str, bytes] = {}
    for segment, head in zip(segments, heads, strict=True):
        made[segment.file] = _quantize(content[segment.file], Batches(segment, features))
        features = [runner.run_segment(segment.exit, arrays) for arrays in features]
        used = [segment.outputs.index(tensor) for tensor in head.inputs]
        inputs = [[arrays[i] for i in used] for arrays in features]
        made[head.file] = _quantize(content[head.file], Batches(head, inputs))
    renewed = [
        [graph.model_copy(update={"sha256": sha256(made[graph.file])}) for graph in graphs]
        for graphs in (segments, heads)
    ]
    return renewed[0], renewed[1], made


def check_accuracy(expected: list[Floats], found: list[Floats], labels: Labels) -> None:
    """Raises ExportError where an exit is right too much more rarely than it was."""
    for exit, logits in enumerate(zip(expected, found, strict=True), start=1):
        before, after = (float((x.argmax(axis=1) == labels).mean()) for x in logits)
        if before - after > MAX_ACCURACY_DROP:
            raise ExportError(
                f"int8 costs exit {exit} too much: {100 * before:.1f} % to {100 * after:.1f} %"
            )


def _quantize(graph: bytes, batches: Batches) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        given, prepared, made = (Path(directory) / f"{i}.onnx" for i in range(3))
        given.write_bytes(graph)
        quant_pre_process(given, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            made,
            batches,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=True,
            reduce_range=True,  # without VNNI sums of 8-bit weights overflow their 16 bits
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return made.read_bytes()
