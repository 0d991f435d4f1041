"""Bundles of texts and of numbers, made in milliseconds, whose right answers are easily told.

In the text model each word votes for its label; the last exit has counted every vote. A row of
numbers votes with its largest number, and with its colour.
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, checker, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from models.bundle.bundle import sha256
from models.bundle.calibration import Calibration, ExitCalibration, OperatingPoint
from models.bundle.manifest import AnyInput, Provenance
from models.bundle.profile import measure
from models.bundle.records import SCHEMA_VERSION, File, Graph, Tensor
from models.bundle.runner import SegmentRunner
from models.bundle.tensor_input import RowTensor, TensorInput
from models.bundle.text_input import TextInput
from training.exporting.writing import write_bundle

LABELS = ("money", "music", "weather")
WORDS = {
    "money": ("balance", "bank", "pay", "card"),
    "music": ("song", "play", "band", "louder"),
    "weather": ("rain", "sun", "cloud", "storm"),
}
OTHER_WORDS = ("[PAD]", "[UNK]", "[CLS]", "what", "is", "my", "the", "שלום")
LENGTHS = (4, 8, 16)
NUM_EXITS = 3
VOTE, GROWTH = 2.0, 1.5
"""A vote's logit at exit 1, and its growth from exit to exit: later exits are surer."""
OPSET, IR_VERSION = 20, 10
SIZES = {-1: "batch", -2: "length"}
ELEMENTS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
Weights = dict[str, NDArray[np.generic]]


def write_text_bundle(zoo: Path) -> Path:
    """A model of texts with three exits, lengths of 4, 8 and 16, and one token of its own."""
    words = [*OTHER_WORDS, *chain.from_iterable(WORDS.values())]
    content = tokenizer_of(words).to_str().encode()
    votes = np.zeros((len(words), len(LABELS)), np.float32)
    for index, label in enumerate(LABELS):
        votes[[words.index(word) for word in WORDS[label]], index] = VOTE
    takes = TextInput(
        tokenizer=File(file="tokenizer.json", sha256=sha256(content)),
        length_buckets=LENGTHS,
        example="what is my balance",
    )
    segments: list[Piece] = []
    heads: list[Piece] = []
    given = [Tensor(name=n, dtype="int64", shape=(-1, -2)) for n in takes.inputs]
    for exit in range(1, NUM_EXITS + 1):
        made = [
            Tensor(name=f"hidden_{exit}", dtype="float32", shape=(-1, -2, len(LABELS))),
            Tensor(name=f"mask_{exit}", dtype="int64", shape=(-1, -2)),
        ]
        first = node("Gather", ["votes", given[0].name], made[0].name)
        later = node("Mul", [given[0].name, "growth"], made[0].name)
        passed_on = node("Identity", [given[1].name], made[1].name)
        weights: Weights = (
            {"votes": votes} if exit == 1 else {"growth": np.array(GROWTH, np.float32)}
        )
        segments.append(
            (given, made, [first if exit == 1 else later, passed_on], weights, len(LABELS))
        )
        count = [
            helper.make_node("Cast", [made[1].name], ["float_mask"], to=TensorProto.FLOAT),
            node("Unsqueeze", ["float_mask", "last"], "column"),
            node("Mul", [made[0].name, "column"], "counted"),
            helper.make_node("ReduceSum", ["counted", "length"], ["logits"], keepdims=0),
        ]
        axes: Weights = {"last": np.array([2]), "length": np.array([1])}
        heads.append((made, [logits()], count, axes, 2 * len(LABELS)))
        given = made
    path = zoo / "words" / "1"
    path.mkdir(parents=True)
    (path / takes.tokenizer.file).write_bytes(content)
    return write(path, takes, segments, heads)


def write_tensor_bundle(zoo: Path) -> Path:
    """A model of rows with three numbers and a colour; colour K adds a vote for label K."""
    takes = TensorInput(
        tensors=(
            RowTensor(name="numbers", dtype="float32", shape=(len(LABELS),)),
            RowTensor(name="colour", dtype="int64", shape=(1,), span=(0, len(LABELS) - 1)),
        )
    )
    votes = np.eye(len(LABELS), dtype=np.float32)
    given = [
        Tensor(name=part.name, dtype=part.dtype, shape=(-1, *part.shape)) for part in takes.tensors
    ]
    first = [
        node("Gather", ["votes", "colour"], "looked_up"),
        node("Squeeze", ["looked_up", "place"], "vote"),
        node("Add", ["numbers", "vote"], "sum_1"),
    ]
    weights: Weights = {"votes": votes, "place": np.array([1])}
    return _of_sums(zoo / "numbers" / "1", takes, given, first, weights)


def write_row_bundle(zoo: Path) -> Path:
    """A model of rows with one tensor of three numbers."""
    takes = TensorInput(tensors=(RowTensor(name="x", dtype="float32", shape=(len(LABELS),)),))
    given = [Tensor(name="x", dtype="float32", shape=(-1, len(LABELS)))]
    first = [node("Identity", ["x"], "sum_1")]
    return _of_sums(zoo / "row" / "1", takes, given, first, {})


def _of_sums(
    path: Path,
    takes: TensorInput,
    given: list[Tensor],
    nodes: list[NodeProto],
    weights: Weights,
) -> Path:
    """Segments that hand on sums, which grow; the heads take them as logits."""
    segments: list[Piece] = []
    heads: list[Piece] = []
    for exit in range(1, NUM_EXITS + 1):
        made = [Tensor(name=f"sum_{exit}", dtype="float32", shape=(-1, len(LABELS)))]
        if exit > 1:
            nodes = [node("Mul", [given[0].name, "growth"], made[0].name)]
            weights = {"growth": np.array(GROWTH, np.float32)}
        segments.append((given, made, nodes, weights, len(LABELS)))
        heads.append((made, [logits()], [node("Identity", [made[0].name], "logits")], {}, 0))
        given = made
    path.mkdir(parents=True)
    return write(path, takes, segments, heads)


Piece = tuple[Sequence[Tensor], Sequence[Tensor], list[NodeProto], Weights, int]
"""A graph's inputs, outputs, nodes and weights, and MACs for one row or one token."""


def write(path: Path, takes: AnyInput, segments: Sequence[Piece], heads: Sequence[Piece]) -> Path:
    """Fills the directory of a bundle, where a tokenizer lies already."""
    entries: dict[str, list[Graph]] = {}
    content: dict[str, bytes] = {}
    for kind, pieces in (("segment", segments), ("exit", heads)):
        entries[kind] = []
        for exit, piece in enumerate(pieces, start=1):
            graph = graph_of(*piece[:4]).SerializeToString()
            entry = entry_of(f"{kind}_{exit}.onnx", exit, graph, piece, takes.length_buckets)
            content[entry.file] = graph
            entries[kind].append(entry)
    graphs = entries["segment"], entries["exit"], content
    runner = SegmentRunner(*graphs)
    write_bundle(
        path,
        graphs,
        calibration(),
        measure(runner, lengths=takes.length_buckets, least=takes.least, runs=3),
        name=path.parent.name,
        version=int(path.name),
        input=takes,
        labels=LABELS,
        provenance=Provenance(
            git_commit="none", data="made", split="none", seed=0, epochs=1, config={}, packages={}
        ),
    )
    return path


def entry_of(file: str, exit: int, content: bytes, piece: Piece, lengths: tuple[int, ...]) -> Graph:
    inputs, outputs, _, weights, macs = piece
    by_length = {length: macs * length for length in lengths}
    return Graph(
        file=file,
        sha256=sha256(content),
        exit=exit,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        macs=by_length[lengths[-1]] if lengths else macs,
        macs_by_length=by_length,
        parameters=sum(weight.size for weight in weights.values()),
    )


def calibration() -> Calibration:
    """Stops above a confidence of 0.9."""
    exits = range(1, NUM_EXITS + 1)
    fitted = [
        ExitCalibration(exit=k, calibration_temperature=1.0, accuracy=0.9, ece_before=0.1, ece=0.1)
        for k in exits
    ]
    point = OperatingPoint(
        thresholds=(*[0.9] * (NUM_EXITS - 1), None),
        consulted=tuple(exits),
        accuracy=0.9,
        mean_macs=1.0,
        exit_shares=(1.0, *[0.0] * (NUM_EXITS - 1)),
    )
    return Calibration(
        schema_version=SCHEMA_VERSION,
        confidence="max_probability",
        num_rows=100,
        exits=tuple(fitted),
        operating_points={"balanced": point},
    )


def tokenizer_of(words: Sequence[str]) -> Tokenizer:
    """Lower case, one token for each word, [CLS] in front."""
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", vocabulary["[CLS]"])]
    )
    return tokenizer


def node(kind: str, inputs: Sequence[str], output: str) -> NodeProto:
    made: NodeProto = helper.make_node(kind, list(inputs), [output])
    return made


def logits() -> Tensor:
    return Tensor(name="logits", dtype="float32", shape=(-1, len(LABELS)))


def graph_of(
    inputs: Sequence[Tensor], outputs: Sequence[Tensor], nodes: list[NodeProto], weights: Weights
) -> ModelProto:
    constants = [
        numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()
    ]
    graph = helper.make_graph(
        nodes, "piece", [value_of(t) for t in inputs], [value_of(t) for t in outputs], constants
    )
    opset = [helper.make_opsetid("", OPSET)]
    model: ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    checker.check_model(model)
    return model


def value_of(tensor: Tensor) -> ValueInfoProto:
    shape = [SIZES.get(size, size) for size in tensor.shape]
    value: ValueInfoProto = helper.make_tensor_value_info(
        tensor.name, ELEMENTS[tensor.dtype], shape
    )
    return value
