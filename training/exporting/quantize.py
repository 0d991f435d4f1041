"""Graphs with 8-bit weights and activations, their ranges taken from real images.

Features stay 8-bit from one graph to the next, too.

ONNX's QDQ format: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx.version_converter import convert_version
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from models.bundle.bundle import sha256
from models.bundle.confidence import Floats
from models.bundle.records import Graph, Tensor
from models.bundle.runner import Arrays, SegmentRunner
from training.data.rows import Index
from training.evaluation.measures import Labels
from training.exporting.align import Layout, aligned
from training.exporting.graphs import ExportError

QUANTIZED = (
    *("Conv", "Concat", "Gemm", "MatMul", "AveragePool", "GlobalAveragePool", "Relu"),
    *("MaxPool", "Slice", "Gather", "Clip"),
)
"""Whole chains of these run on 8-bit numbers; between others they would be converted back."""
QDQ_OPSET = 13
"""The first whose 8-bit weights may have a range for each channel."""
FLOAT_LOGITS = {"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]}
"""A head's logits stay float32: in 8 bits the two largest were equal in 3 % of rows."""
RANGE_ROWS = 500
BATCH_ROWS = 8
"""With 32, quantizing EfficientNet-Lite0 took 2,385 MiB; with 8, 1,203, for the same graphs."""
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
    in_float: Collection[str] = (),
) -> Graphs:
    """The same graphs in int8, with the features between them in uint8 where both sides allow it.

    `images`, (rows, height, width, channels), are what the ranges are taken from, as the float
    graphs see them. Graphs whose files are named in `in_float` stay in float32. MACs and parameters
    are still counted without the channels that align.
    """
    models: dict[str, ModelProto] = {}
    layouts: dict[str, Layout] = {}
    for segment, head in zip(segments, heads, strict=True):
        models[segment.file], layouts = aligned(prepared(content[segment.file]), layouts)
        models[head.file], _ = aligned(prepared(content[head.file]), layouts)
    segments, heads, content = _described(segments, heads, models)
    runner = SegmentRunner(segments, heads, content)
    features: list[Arrays] = [
        [batch] for batch in np.array_split(images, -(-len(images) // BATCH_ROWS))
    ]
    for segment, head in zip(segments, heads, strict=True):
        if segment.file not in in_float:
            models[segment.file] = _quantize(models[segment.file], Batches(segment, features))
        features = [runner.run_segment(segment.exit, arrays) for arrays in features]
        used = [segment.outputs.index(tensor) for tensor in head.inputs]
        inputs = [[arrays[i] for i in used] for arrays in features]
        if head.file not in in_float:
            models[head.file] = _quantize(models[head.file], Batches(head, inputs), FLOAT_LOGITS)
    for index, segment in enumerate(segments):
        readers = [models[graph.file] for graph in (heads[index], *segments[index + 1 :][:1])]
        for tensor in segment.outputs:
            _hand_over(tensor.name, models[segment.file], readers)
    return _described(segments, heads, models)


def range_rows(learned: Index) -> Index:
    """Rows that ranges are taken from: evenly spaced over those learned from, often class by class.

    Rows that calibrate must not choose the graphs that they certify.
    """
    some = np.linspace(0, len(learned) - 1, min(RANGE_ROWS, len(learned))).astype(int)
    rows: Index = learned[some]
    return rows


def check_accuracy(expected: list[Floats], found: list[Floats], labels: Labels) -> None:
    """Raises ExportError where an exit loses too much accuracy by 8 bits."""
    for exit, logits in enumerate(zip(expected, found, strict=True), start=1):
        before, after = (float((x.argmax(axis=1) == labels).mean()) for x in logits)
        if before - after > MAX_ACCURACY_DROP:
            raise ExportError(
                f"int8 costs exit {exit} too much: {100 * before:.1f} % to {100 * after:.1f} %"
            )


def prepared(graph: bytes) -> ModelProto:
    """The graph with batch normalisation folded away, and its shapes, in an opset with QDQ."""
    model = onnx.load_model_from_string(graph)
    if any(x.domain in ("", "ai.onnx") and x.version < QDQ_OPSET for x in model.opset_import):
        model = convert_version(model, QDQ_OPSET)
    with tempfile.TemporaryDirectory() as directory:
        given, made = (Path(directory) / f"{i}.onnx" for i in range(2))
        onnx.save(model, given)
        quant_pre_process(given, made, skip_symbolic_shape=True)
        return onnx.load(made)


def _quantize(
    graph: ModelProto, batches: Batches, options: Mapping[str, Any] | None = None
) -> ModelProto:
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory) / "made.onnx"
        quantize_static(
            graph,
            made,
            batches,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=True,
            reduce_range=True,  # without VNNI sums of 8-bit weights overflow their 16 bits
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options=options,
        )
        return onnx.load(made)


def _hand_over(name: str, maker: ModelProto, readers: Sequence[ModelProto]) -> None:
    """Lets a tensor go from graph to graph in 8 bits, if they all have it in 8 bits inside."""
    readers = [model for model in readers if name in _names(model.graph.input)]
    if name in _names(maker.graph.input) or any(name in _names(r.graph.output) for r in readers):
        return  # one of them passes it on as it came
    reading = [_readers_of(name, model) for model in readers]
    (last,) = (node for node in maker.graph.node if name in node.output)
    first = next((node for node in maker.graph.node if last.input[0] in node.output), None)
    ends = [first, *(node for nodes in reading for node in nodes)]
    if last.op_type != "DequantizeLinear" or {n and n.op_type for n in ends} != {"QuantizeLinear"}:
        return
    assert first is not None
    _replace(maker, name, f"{name}_float")
    last.output[0] = f"{name}_float"
    _replace(maker, first.output[0], name)
    first.output[0] = name
    if not _readers_of(last.output[0], maker):
        maker.graph.node.remove(last)
    _make_8_bits(maker.graph.output, name)
    range_ = [_weight(maker, parameter) for parameter in first.input[1:]]
    for model, nodes in zip(readers, reading, strict=True):
        for node in nodes:
            for parameter, value in zip(node.input[1:], range_, strict=True):
                given = _weight(model, parameter)
                given.CopyFrom(value)
                given.name = parameter
            _replace(model, node.output[0], name)
            model.graph.node.remove(node)
        _make_8_bits(model.graph.input, name)


def _names(values: Sequence[ValueInfoProto]) -> set[str]:
    return {value.name for value in values}


def _readers_of(name: str, model: ModelProto) -> list[NodeProto]:
    return [node for node in model.graph.node if name in node.input]


def _replace(model: ModelProto, name: str, by: str) -> None:
    for node in _readers_of(name, model):
        node.input[:] = [by if given == name else given for given in node.input]


def _make_8_bits(values: Sequence[ValueInfoProto], name: str) -> None:
    for value in values:
        if value.name == name:
            value.type.tensor_type.elem_type = TensorProto.UINT8


def _weight(model: ModelProto, name: str) -> TensorProto:
    weight: TensorProto = next(w for w in model.graph.initializer if w.name == name)
    return weight


def _described(
    segments: Sequence[Graph], heads: Sequence[Graph], models: Mapping[str, ModelProto]
) -> Graphs:
    """New manifest entries of the graphs, and their bytes by file name."""
    content = {file: model.SerializeToString() for file, model in models.items()}
    described: tuple[list[Graph], list[Graph]] = ([], [])
    for entries, graphs in zip(described, (segments, heads), strict=True):
        for entry in graphs:
            graph = models[entry.file].graph
            changed = {
                "sha256": sha256(content[entry.file]),
                "inputs": tuple(map(_spec, graph.input)),
                "outputs": tuple(map(_spec, graph.output)),
            }
            entries.append(entry.model_copy(update=changed))
    return *described, content


def _spec(value: ValueInfoProto) -> Tensor:
    """A graph's input or output as the manifest has it; a dimension without a size is the batch."""
    tensor = value.type.tensor_type
    return Tensor(
        name=value.name,
        dtype="uint8" if tensor.elem_type == TensorProto.UINT8 else "float32",
        shape=tuple(dim.dim_value or -1 for dim in tensor.shape.dim),
    )
