"""A network's pieces as ONNX graphs, checked against torch."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.bundle.bundle import sha256
from models.bundle.confidence import Floats
from models.bundle.errors import UserError
from models.bundle.manifest import Graph
from models.bundle.manifest import Tensor as TensorSpec
from models.bundle.runner import Arrays, SegmentRunner
from models.nets.multi_exit import Features, MultiExitNet

DTYPES = {torch.uint8: "uint8", torch.float32: "float32"}
PARITY_TOLERANCE = 1e-3
"""Largest difference of any logit from torch's, on logits of order ten."""


class ExportError(UserError):
    """The bundle was not written; the message says why."""


class ImageSegment(nn.Module):
    """Segment 1 with the normalisation in front: takes uint8 (batch, height, width, channels).

    The same arithmetic as `normalised`, but on whole planes: onnxruntime takes a quarter of the
    time for one image, less for more.
    """

    def __init__(self, segment: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.segment = segment
        self.shift, self.scale = (x.view(-1, 1, 1) for x in (255 * mean, 1 / (255 * std)))

    def forward(self, features: Features) -> Features:
        (images,) = features
        planes = images.permute(0, 3, 1, 2).float()
        outputs: Features = self.segment([(planes - self.shift) * self.scale])
        return outputs


class Piece(nn.Module):
    """A segment or head as the exporter wants it: tensors in, a tuple of tensors out."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        outputs = self.module(list(features))
        return tuple(outputs) if isinstance(outputs, list) else (outputs,)


@dataclass(frozen=True)
class ExportedGraph:
    """A graph's manifest entry and its serialised bytes."""

    entry: Graph
    content: bytes


def export_graphs(
    net: MultiExitNet, images: Tensor, mean: Tensor, std: Tensor
) -> tuple[list[ExportedGraph], list[ExportedGraph]]:
    """Every segment and every exit head as a self-contained graph with a dynamic batch.

    `images` are a few real uint8 ones, (batch, height, width, channels), batch at least two.
    """
    net.eval()
    features, names = [images], ["images"]
    segments, heads = [], []
    for exit, (segment, head) in enumerate(net.split(), start=1):
        module = ImageSegment(segment, mean, std) if exit == 1 else segment
        with torch.no_grad():
            outputs: Features = module(features)
        output_names = [f"features_{exit}_{i}" for i in range(len(outputs))]
        segments.append(_export(module, f"segment_{exit}", exit, features, names, output_names))
        features, names = outputs, output_names
        heads.append(_export(head, f"exit_{exit}", exit, features, names, ["logits"]))
    return segments, heads


def _export(
    module: nn.Module,
    stem: str,
    exit: int,
    features: Features,
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> ExportedGraph:
    piece = Piece(module).eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecated calls
        try:
            program = torch.onnx.export(
                piece,
                tuple(features),
                input_names=list(input_names),
                output_names=list(output_names),
                dynamic_shapes={
                    "features": tuple({0: torch.export.Dim("batch")} for _ in features)
                },
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # the exporter's errors have no common base
            raise ExportError(f"{stem} cannot be exported: {reason(error)}") from error
    if program is None:
        raise ExportError(f"{stem} could not be exported")
    model = program.model_proto
    _strip(model)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        outputs = piece(*(x[:1] for x in features))
    given = zip(input_names, features, strict=True)
    used = {value.name for value in model.graph.input}
    entry = Graph(
        file=f"{stem}.onnx",
        sha256=sha256(content),
        exit=exit,
        inputs=tuple(_spec(name, x) for name, x in given if name in used),
        outputs=tuple(_spec(name, x) for name, x in zip(output_names, outputs, strict=True)),
        macs=counter.get_total_flops() // 2,
        parameters=sum(p.numel() for p in module.parameters()),
    )
    return ExportedGraph(entry, content)


def reason(error: BaseException) -> str:
    """The first line of the error that caused it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{error}".strip().partition("\n")[0] or type(error).__name__


def _spec(name: str, tensor: Tensor) -> TensorSpec:
    shape = (-1, *tensor.shape[1:])
    return TensorSpec.model_validate({"name": name, "dtype": DTYPES[tensor.dtype], "shape": shape})


def _strip(model: ModelProto) -> None:
    """Drops the exporter's source-line notes, and features a head does not read."""
    graph = model.graph
    for node in graph.node:
        del node.metadata_props[:]
    for value in (*graph.input, *graph.output, *graph.value_info):
        del value.metadata_props[:]
    for weight in graph.initializer:
        del weight.metadata_props[:]
    used = {name for node in graph.node for name in node.input}
    for value in [v for v in graph.input if v.name not in used]:
        graph.input.remove(value)


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


def check_independence(runner: SegmentRunner, images: NDArray[np.uint8]) -> float:
    """The largest difference of a logit between an image alone, in company and in another order.

    Raises ExportError above the tolerance: the server decides which images share a batch.
    """
    together = run_all(runner, images)
    turned = [logits[::-1] for logits in run_all(runner, images[::-1])]
    alone = [run_all(runner, image[None]) for image in images]
    differences = []
    for k, logits in enumerate(together):
        single = np.concatenate([each[k] for each in alone])
        differences.append(float(max(np.abs(logits - x).max() for x in (single, turned[k]))))
        if not differences[-1] <= PARITY_TOLERANCE:
            raise ExportError(
                f"exit {k + 1} answers an image otherwise when others are in its batch: a logit "
                f"differs by {differences[-1]:.2g}, {PARITY_TOLERANCE} is allowed; no layer may "
                "mix the rows of a batch (batch normalisation needs its running statistics)"
            )
    return max(differences)


def run_all(runner: SegmentRunner, images: NDArray[np.uint8]) -> list[Floats]:
    """Logits of every exit on one batch."""
    features: Arrays = [np.ascontiguousarray(images)]
    logits = []
    for exit in range(1, runner.num_exits + 1):
        features = runner.run_segment(exit, features)
        logits.append(runner.run_head(exit, features))
    return logits
