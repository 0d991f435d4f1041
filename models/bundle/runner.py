"""Running a bundle's graphs with onnxruntime, one segment or exit head at a time."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.bundle.bundle import BundleError
from models.bundle.confidence import Floats
from models.bundle.defaults import CPU
from models.bundle.records import BATCH, LENGTH, Graph, Tensor, shapes

Arrays = list[NDArray[Any]]

ORT_ERRORS = 3  # onnxruntime's log level that leaves out its warnings
EXTERNAL_DATA_FOLDER = "session.model_external_initializers_file_folder_path"
DTYPES = {
    "tensor(bool)": "bool",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
}


class SegmentRunner:
    """One onnxruntime session per graph; calls may come from several threads at once.

    The options of a run can end it from another thread.

    Every session runs on the calling thread alone: sessions that own spinning thread pools fight
    over the cores. What an execution provider cannot run, the CPU does. `clock` tells the seconds
    that runs cost: those of the thread on a core, or where the work is done elsewhere, those that
    pass. Exits are numbered from 1. Raises BundleError for a graph that onnxruntime refuses or
    whose tensors are not those of its entry.
    """

    def __init__(
        self,
        segments: Sequence[Graph],
        heads: Sequence[Graph],
        content: Mapping[str, bytes],
        provider: str = CPU,
    ) -> None:
        self.inputs = segments[0].inputs
        self.clock: Callable[[], float] = time.thread_time if provider == CPU else time.monotonic
        self._segments = [_Session(graph, content[graph.file], provider) for graph in segments]
        self._heads = [_Session(graph, content[graph.file], provider) for graph in heads]
        self._head_features = [
            [segment.outputs.index(tensor) for tensor in head.inputs]
            for segment, head in zip(segments, heads, strict=True)
        ]

    @property
    def num_exits(self) -> int:
        return len(self._segments)

    def run_segment(
        self, exit: int, features: Arrays, options: ort.RunOptions | None = None
    ) -> Arrays:
        """Features of segment `exit` from those of the one before it, or from the input."""
        return self._segments[exit - 1].run(features, options)

    def run_head(
        self, exit: int, features: Arrays, options: ort.RunOptions | None = None
    ) -> Floats:
        """Logits, (rows, classes), from the features of segment `exit`."""
        used = [features[i] for i in self._head_features[exit - 1]]
        logits: Floats = self._heads[exit - 1].run(used, options)[0]
        return logits

    def run(self, inputs: Arrays) -> list[Floats]:
        """Logits of every exit, (rows, classes) each, for one batch."""
        features: Arrays = [np.ascontiguousarray(x) for x in inputs]
        logits = []
        for exit in range(1, self.num_exits + 1):
            features = self.run_segment(exit, features)
            logits.append(self.run_head(exit, features))
        return logits


class _Session:
    """An onnxruntime session whose tensors are those the manifest promises."""

    def __init__(self, graph: Graph, content: bytes, provider: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = ORT_ERRORS
        # a graph that points at other files must find none, neither here nor above
        options.add_session_config_entry(EXTERNAL_DATA_FOLDER, os.devnull)
        try:
            self._session = ort.InferenceSession(
                content, options, providers=list(dict.fromkeys((provider, CPU)))
            )
        except Exception as error:  # onnxruntime's errors have no common base
            raise BundleError(f"{graph.file} cannot be run: {error}") from error
        if provider not in self._session.get_providers():
            raise BundleError(f"{provider} does not work here")
        for promised, found in (
            (graph.inputs, _specs(self._session.get_inputs())),
            (graph.outputs, _specs(self._session.get_outputs())),
        ):
            if found != promised:
                raise BundleError(
                    f"{graph.file} has {shapes(found)} where the manifest says {shapes(promised)}"
                )
        self._names = [tensor.name for tensor in graph.inputs]
        self._outputs = [tensor.name for tensor in graph.outputs]

    def run(self, arrays: Arrays, options: ort.RunOptions | None) -> Arrays:
        inputs = dict(zip(self._names, arrays, strict=True))
        outputs: Arrays = self._session.run(self._outputs, inputs, options)
        return outputs


def _specs(values: Sequence[ort.NodeArg]) -> tuple[Tensor, ...]:
    """onnxruntime's view of a graph's inputs or outputs.

    A dimension that is not fixed is the batch in the first place, else it goes with the length.
    """
    return tuple(
        Tensor.model_construct(
            name=value.name,
            dtype=DTYPES.get(value.type, value.type),
            shape=tuple(
                size if isinstance(size, int) else LENGTH if place else BATCH
                for place, size in enumerate(value.shape)
            ),
        )
        for value in values
    )
