"""A network's pieces as ONNX graphs, checked against torch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import ModelProto
from onnx_ir.passes.common import NameFixPass
from torch import Tensor, nn
from torch.backends import mkldnn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.bundle.bundle import sha256
from models.bundle.errors import UserError
from models.bundle.records import BATCH, LENGTH, Graph
from models.bundle.records import Tensor as TensorSpec
from models.bundle.runner import Arrays, SegmentRunner
from models.nets.multi_exit import Features, MultiExitNet
from training.data.errors import reason
from training.data.sources import Inputs
from training.fronts import Front, resized

DTYPES = {torch.uint8: "uint8", torch.float32: "float32", torch.int64: "int64"}
PARITY_TOLERANCE = 1e-3
"""Largest difference of any logit from torch's, on logits of order ten."""


class ExportError(UserError):
    """The bundle was not written; the message says why."""


class Piece(nn.Module):
    """A segment or head as the exporter wants it: tensors in, a tuple of tensors out."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        outputs = self.module(list(features))
        return tuple(outputs) if isinstance(outputs, list) else (outputs,)


@dataclass(frozen=True)
class Trail:
    """Features of some rows on their way; of texts, also of one row at every length bucket."""

    rows: Features
    by_length: dict[int, Features]

    def through(self, piece: Piece) -> Trail:
        with torch.no_grad():
            rows = list(piece(*self.rows))
            by_length = {n: list(piece(*some)) for n, some in self.by_length.items()}
        return Trail(rows, by_length)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """As the manifest has them: the batch, and what goes with the length, are not fixed."""
        shapes = []
        for place, x in enumerate(self.rows):
            seen = [some[place].shape for some in (*self.by_length.values(), self.rows)]
            varies = [len(set(sizes)) > 1 for sizes in zip(*seen, strict=True)]
            sizes = (LENGTH if v else n for v, n in zip(varies, x.shape, strict=True))
            shapes.append((BATCH, *list(sizes)[1:]))
        return shapes


@dataclass(frozen=True)
class ExportedGraph:
    """A graph's manifest entry and its serialised bytes."""

    entry: Graph
    content: bytes


def export_graphs(
    net: MultiExitNet, inputs: Inputs, front: Front
) -> tuple[list[Graph], list[Graph], dict[str, bytes]]:
    """Every segment and every exit head as a self-contained graph with a dynamic batch.

    Their entries, and every graph by file. `inputs` are a few real rows as segment 1 takes them, at
    least two.
    """
    net.eval()
    names: Sequence[str] = front.names
    # one length more, so that what goes with the length is seen even where there is one bucket
    lengths = {*front.lengths, *(n - 1 for n in front.lengths[-1:])}
    features = Trail(inputs, {n: resized([x[:1] for x in inputs], n) for n in lengths})
    segments: list[ExportedGraph] = []
    heads: list[ExportedGraph] = []
    for exit, (segment, head) in enumerate(net.split(), start=1):
        module = front.before(segment) if exit == 1 else segment
        outputs = features.through(Piece(module).eval())
        output_names = [f"features_{exit}_{i}" for i in range(len(outputs.rows))]
        buckets = front.lengths
        made = _export(module, f"segment_{exit}", exit, features, buckets, names, output_names)
        segments.append(made)
        features, names = outputs, output_names
        heads.append(_export(head, f"exit_{exit}", exit, features, buckets, names, ["logits"]))
    content = {graph.entry.file: graph.content for graph in (*segments, *heads)}
    return [graph.entry for graph in segments], [graph.entry for graph in heads], content


def _export(
    module: nn.Module,
    stem: str,
    exit: int,
    features: Trail,
    buckets: Sequence[int],
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> ExportedGraph:
    piece = Piece(module).eval()
    model = _traced(piece, stem, features, buckets, input_names, output_names)
    content = model.SerializeToString()
    outputs = features.through(piece)
    macs = {length: macs_of(piece, features.by_length[length]) for length in buckets}
    given = zip(input_names, features.rows, features.shapes, strict=True)
    made = zip(output_names, outputs.rows, outputs.shapes, strict=True)
    used = {value.name for value in model.graph.input}
    entry = Graph(
        file=f"{stem}.onnx",
        sha256=sha256(content),
        exit=exit,
        inputs=tuple(_spec(name, x, shape) for name, x, shape in given if name in used),
        outputs=tuple(_spec(name, x, shape) for name, x, shape in made),
        macs=macs[buckets[-1]] if buckets else macs_of(piece, [x[:1] for x in features.rows]),
        parameters=sum(p.numel() for p in module.parameters()),
        macs_by_length=macs,
    )
    return ExportedGraph(entry, content)


def _traced(
    piece: Piece,
    stem: str,
    features: Trail,
    buckets: Sequence[int],
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> ModelProto:
    """The piece as ONNX, without notes; raises ExportError where the exporter fails."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecated calls
        try:
            program = torch.onnx.export(
                piece,
                tuple(features.rows),
                input_names=list(input_names),
                output_names=list(output_names),
                dynamic_shapes={
                    "features": tuple(dimensions(shape, buckets) for shape in features.shapes)
                },
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # the exporter's errors have no common base
            raise ExportError(f"{stem} cannot be exported: {reason(error)}") from error
    if program is None:
        raise ExportError(f"{stem} could not be exported")
    NameFixPass()(program.model)  # a column of numbers may be called as a value inside: "cat"
    model = program.model_proto
    _strip(model)
    onnx.checker.check_model(model)
    return model


def macs_of(module: nn.Module, features: Features) -> int:
    """MACs of one call. The counter does not see into fused layers: they run in parts."""
    had_fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    had_onednn, mkldnn.enabled = mkldnn.enabled, False  # type: ignore[assignment] # fuses LSTM
    try:
        with (
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            module(*features)
    finally:
        torch.backends.mha.set_fastpath_enabled(had_fast_path)
        mkldnn.enabled = had_onednn
    return int(counter.get_total_flops() // 2)


def dimensions(shape: tuple[int, ...], buckets: Sequence[int]) -> dict[int, torch.export.Dim]:
    """The axes of a tensor that are not fixed, as the exporter wants them."""
    free = {BATCH: torch.export.Dim("batch")}
    if buckets:
        free[LENGTH] = torch.export.Dim("length", max=buckets[-1])
    return {axis: free[size] for axis, size in enumerate(shape) if size in free}


def _spec(name: str, tensor: Tensor, shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec.model_validate({"name": name, "dtype": DTYPES[tensor.dtype], "shape": shape})


def drop_notes(model: ModelProto) -> None:
    """Drops what an exporter notes beside a graph, such as its source lines and their paths."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:]
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*graph.input, *graph.output, *graph.value_info):
        del value.metadata_props[:]
    for weight in graph.initializer:
        del weight.metadata_props[:]


def _strip(model: ModelProto) -> None:
    """Drops notes, and features that a head does not read."""
    drop_notes(model)
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    for value in [v for v in graph.input if v.name not in used]:
        graph.input.remove(value)


def check_logits(runner: SegmentRunner, inputs: Inputs, expected: Sequence[Tensor]) -> None:
    """Raises ExportError where graphs answer otherwise than torch, or than for a row alone."""
    arrays = [x.numpy() for x in inputs]
    check_parity(expected, runner.run(arrays))
    check_independence(runner, arrays)


def check_parity(expected: Sequence[Tensor], actual: Sequence[np.ndarray]) -> float:
    """The largest difference between torch's logits and the exported graphs', per exit and row.

    Raises ExportError above the tolerance.
    """
    differences = [
        float(np.abs(e.numpy() - a).max()) for e, a in zip(expected, actual, strict=True)
    ]
    for exit, difference in enumerate(differences, start=1):
        if not difference <= PARITY_TOLERANCE:
            raise ExportError(
                f"exit {exit} differs from torch by {difference:.2g} in a logit; "
                f"{PARITY_TOLERANCE} is allowed"
            )
    return max(differences)


def check_independence(runner: SegmentRunner, inputs: Arrays) -> float:
    """The largest difference of a logit between a row alone, in company and in another order.

    Raises ExportError above the tolerance: the server decides which rows share a batch.
    """
    together = runner.run(inputs)
    turned = [logits[::-1] for logits in runner.run([x[::-1] for x in inputs])]
    alone = [runner.run([x[k : k + 1] for x in inputs]) for k in range(len(inputs[0]))]
    differences = []
    for k, logits in enumerate(together):
        single = np.concatenate([each[k] for each in alone])
        differences.append(float(max(np.abs(logits - x).max() for x in (single, turned[k]))))
        if not differences[-1] <= PARITY_TOLERANCE:
            raise ExportError(
                f"exit {k + 1} answers a row otherwise when others are in its batch: a logit "
                f"differs by {differences[-1]:.2g}, {PARITY_TOLERANCE} is allowed; no layer may "
                "mix the rows of a batch (batch normalisation needs its running statistics)"
            )
    return max(differences)
