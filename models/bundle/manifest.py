"""The bundle's JSON files as types: `manifest.json`, `calibration.json` and `cost.json`.

All are strict: an unknown key or a value of the wrong type is an error. Exits are numbered from 1.

What segment 1 takes goes by the `kind` of the manifest's `input`:

- `image`: one uint8 tensor, (-1, height, width, channels).
- `text`: the int64 tensors that `inputs` names, in that order, each (-1, -2). A text is padded to
  the smallest of `length_buckets` that holds its tokens, and cut at the largest.
- `tensor`: the tensors of `tensors`, in that order, each with -1 before its shape.

In the shape of a graph's tensor -1 is the batch: it comes first, and nowhere else. -2 is a size
that goes with the length bucket: only graphs of text models have it, in any place but the first.
All rows of a batch are of one bucket. Each segment takes all that the segment before it puts out,
and nothing else: what a later segment needs, such as the mask, is handed on by every one before it.
"""

import re
from base64 import b64encode
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    Base64Bytes,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    model_validator,
)

from models.bundle.errors import UserError

SCHEMA_VERSION: Literal[1] = 1
MANIFEST, CALIBRATION, COST = "manifest.json", "calibration.json", "cost.json"

BATCH, LENGTH = -1, -2
"""Sizes in a shape that are not fixed: of the batch, and what goes with the length bucket."""
MAX_UINT16 = 65535
MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"

Key = tuple[str, int]
"""A model's name and version."""
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+\.(onnx|json)$")]
ModelName = Annotated[str, Field(pattern=MODEL_NAME)]
Probability = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
Byte = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Byte, Byte, Byte]
"""Red, green and blue."""
DType = Literal["bool", "uint8", "int8", "int32", "int64", "float16", "float32", "float64"]
TokenTensor = Literal["input_ids", "attention_mask", "token_type_ids"]

Resize = Literal["squash", "crop", "pad"]
ResizeInManifest = Annotated[
    Resize, BeforeValidator(lambda rule: "squash" if rule == "bilinear" else rule)
]
"""Bundles written before there were three rules call squashing "bilinear"."""


JudgedBy = Literal["labels", "last_exit"]
"""What says that an answer is right."""


class Record(BaseModel):
    """A frozen record that refuses unknown keys and converts nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class File(Record):
    """A file beside the manifest; its name can never lead out of the bundle's directory."""

    file: FileName
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Tensor(Record):
    """A graph's input or output; -1 in a shape is the batch, -2 goes with the length bucket."""

    name: str
    dtype: DType
    shape: tuple[int, ...]


class Graph(File):
    """One ONNX graph. `macs` are for one row, of a text for one of the largest length bucket.

    `macs_by_length` has them for every length bucket, and nothing where there are no buckets.
    """

    exit: PositiveInt
    inputs: tuple[Tensor, ...] = Field(min_length=1)
    outputs: tuple[Tensor, ...] = Field(min_length=1)
    macs: int = Field(ge=0)
    parameters: int = Field(ge=0)
    macs_by_length: dict[PositiveInt, Annotated[int, Field(ge=0)]] = {}

    def macs_of(self, length: int) -> int:
        """For one row of a length bucket; of length 0 where all rows have one size."""
        return self.macs_by_length.get(length, self.macs)


class Input(Record):
    """Images: uint8, (-1, height, width, channels).

    Images of other sizes are fitted by `resize`: `squash` to the size, `crop` the centre after the
    short side was scaled, or `pad` with the ground. `short_side` is the size of the scaled short
    side before cropping, where it is not the target's own: 256 where published networks take
    224. `ground` is the colour under transparency.
    """

    kind: Literal["image"] = "image"
    layout: Literal["NHWC"] = "NHWC"
    height: PositiveInt
    width: PositiveInt
    channels: Literal[1, 3]
    resize: ResizeInManifest = "squash"
    short_side: PositiveInt | None = None
    ground: Colour = (255, 255, 255)

    @model_validator(mode="after")
    def _crop_is_within(self) -> Self:
        if self.short_side is not None:
            if self.resize != "crop":
                raise ValueError(f"{self.resize} has no short_side")
            if self.short_side < max(self.height, self.width):
                raise ValueError("short_side must be at least the height and the width")
        return self

    @property
    def length_buckets(self) -> tuple[int, ...]:
        return ()

    def tensors_of(self, first: Graph) -> tuple[Tensor, ...]:
        """What segment 1, `first`, has to take; it is free to name the images."""
        shape = BATCH, self.height, self.width, self.channels
        return (Tensor(name=first.inputs[0].name, dtype="uint8", shape=shape),)


class TextInput(Record):
    """Texts, as token ids.

    `tokenizer` is a `tokenizer.json` of Hugging Face `tokenizers`: normalisation, special tokens,
    the padding's token and side, the side that is cut. `models/bundle/text.py` reads it. `example`
    is a text that the model is made for.
    """

    kind: Literal["text"] = "text"
    tokenizer: File
    length_buckets: tuple[PositiveInt, ...] = Field(min_length=1)
    inputs: tuple[TokenTensor, ...] = ("input_ids", "attention_mask")
    example: Annotated[str, Field(min_length=1)] = "Hello, how are you?"

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if list(self.length_buckets) != sorted(set(self.length_buckets)):
            raise ValueError("length_buckets must rise")
        if len(set(self.inputs)) < len(self.inputs) or "input_ids" not in self.inputs:
            raise ValueError("inputs must have input_ids, and nothing twice")
        return self

    def tensors_of(self, _: Graph) -> tuple[Tensor, ...]:
        """What segment 1 has to take."""
        return tuple(Tensor(name=n, dtype="int64", shape=(BATCH, LENGTH)) for n in self.inputs)


class RowTensor(Record):
    """One named part of a row; `shape` is without the batch.

    `span` is the smallest and the largest value that an integer may have. It is needed where the
    graph looks something up by it: a value beyond would fail for all rows of its batch.
    """

    name: Annotated[str, Field(min_length=1)]
    dtype: DType
    shape: tuple[PositiveInt, ...]
    span: tuple[int, int] | None = None

    @model_validator(mode="after")
    def _span_is_sound(self) -> Self:
        if self.span is not None:
            if "int" not in self.dtype:
                raise ValueError(f"{self.dtype} has no span")
            if self.span[0] > self.span[1]:
                raise ValueError("span must rise")
        return self


class TensorInput(Record):
    """Rows of numbers: one named tensor of fixed shape or several."""

    kind: Literal["tensor"] = "tensor"
    tensors: tuple[RowTensor, ...] = Field(min_length=1)

    @property
    def length_buckets(self) -> tuple[int, ...]:
        return ()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if len({tensor.name for tensor in self.tensors}) < len(self.tensors):
            raise ValueError("tensors must have different names")
        return self

    def tensors_of(self, _: Graph) -> tuple[Tensor, ...]:
        """What segment 1 has to take."""
        return tuple(
            Tensor(name=part.name, dtype=part.dtype, shape=(BATCH, *part.shape))
            for part in self.tensors
        )


AnyInput = Annotated[Input | TextInput | TensorInput, Field(discriminator="kind")]


class Provenance(Record):
    """Where the weights come from."""

    git_commit: str
    data: str
    split: str
    seed: int
    epochs: PositiveInt
    config: dict[str, str | int | float | bool | list[int] | None]
    packages: dict[str, str]
    precision: Literal["float32", "int8"] = "float32"


class Manifest(Record):
    """The bundle's index. Segment k and exit head k belong to exit k."""

    schema_version: Literal[1]
    name: ModelName
    version: PositiveInt
    input: AnyInput
    labels: tuple[str, ...] = Field(min_length=2)
    segments: tuple[Graph, ...] = Field(min_length=1)
    exit_heads: tuple[Graph, ...]
    calibration: File
    cost: File
    provenance: Provenance

    @property
    def num_exits(self) -> int:
        return len(self.segments)

    @property
    def image_input(self) -> Input:
        """The input of a model of images; raises UserError for another."""
        if isinstance(self.input, Input):
            return self.input
        raise UserError(f"{self.name} takes {self.input.kind}, not images")

    @model_validator(mode="after")
    def _graphs_chain(self) -> Self:
        exits = list(range(1, self.num_exits + 1))
        for kind, graphs in (("segments", self.segments), ("exit_heads", self.exit_heads)):
            if [graph.exit for graph in graphs] != exits:
                raise ValueError(f"{kind} must be numbered 1 to {self.num_exits}, in order")
        given = self.input.tensors_of(self.segments[0])
        for segment, head in zip(self.segments, self.exit_heads, strict=True):
            if segment.inputs != given:
                raise ValueError(
                    f"{segment.file} takes {shapes(segment.inputs)}, gets {shapes(given)}"
                )
            given = segment.outputs
            if not set(head.inputs) <= set(given):
                raise ValueError(f"{head.file} takes {shapes(head.inputs)}, gets {shapes(given)}")
            if [(t.dtype, t.shape) for t in head.outputs] != [("float32", (-1, len(self.labels)))]:
                raise ValueError(f"{head.file} must give one logit per label: {len(self.labels)}")
            if any(tensor.shape[:1] != (BATCH,) for tensor in given):
                raise ValueError(f"{segment.file} must give features of any batch")
        return self

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        buckets = self.input.length_buckets
        for graph in (*self.segments, *self.exit_heads):
            if sorted(graph.macs_by_length) != list(buckets):
                raise ValueError(f"{graph.file} must have macs_by_length of {list(buckets)}")
            if buckets and graph.macs_by_length[buckets[-1]] != graph.macs:
                raise ValueError(f"{graph.file} must have the macs of length {buckets[-1]}")
            if not buckets and any(LENGTH in tensor.shape for tensor in graph.outputs):
                raise ValueError(f"{graph.file} has a length, but the model takes no texts")
        return self


class ExitCalibration(Record):
    """One exit on the calibration split, before and after its calibration temperature."""

    exit: PositiveInt
    calibration_temperature: float = Field(gt=0)
    accuracy: Probability
    ece_before: Probability
    ece: Probability


class Certificate(Record):
    """What stopping early costs at most, promised by rows that had no part in the choice.

    With `holds_with_probability`, over the draw of those `num_rows` rows, the expected accuracy is
    within `max_accuracy_drop` of the last exit's; with that probability, too, at most the share
    `max_disagreement` of the answers differ from the last exit's, None where that was not measured.
    Requests that a deadline, an energy budget or an exit limit stops are outside the promise.
    """

    max_accuracy_drop: Probability
    max_disagreement: Probability | None = None
    holds_with_probability: Probability
    num_rows: PositiveInt


class OperatingPoint(Record):
    """Thresholds and the exits worth consulting, with what they gave on the calibration split.

    `accuracy` is an estimate that noise in the choice among many candidates hardly raises.
    `thresholds[k - 1]` is exit k's; the last exit has none. `exit_shares` is the share of rows
    that stopped at each exit, `mean_macs` counts the heads that ran. Bundles exported before there
    were certificates have None.
    """

    thresholds: tuple[Probability | None, ...]
    consulted: tuple[PositiveInt, ...] = Field(min_length=1)
    accuracy: Probability
    mean_macs: float
    exit_shares: tuple[Probability, ...]
    certificate: Certificate | None = None


class CalibrationRows(Record):
    """What every exit said of every calibration row, for simulations: base64, row by row.

    `confidences` are little-endian 16-bit integers, 65535 for 1; `is_right` is one byte each.
    `lengths` are the rows' length buckets, little-endian 16-bit integers; None where rows have one
    size, and in bundles of texts exported before they were kept.
    """

    confidences: Base64Bytes
    is_right: Base64Bytes
    lengths: Base64Bytes | None = None

    @classmethod
    def of(
        cls,
        confidences: NDArray[np.floating],
        is_right: NDArray[np.bool_],
        lengths: NDArray[np.int64] | None = None,
    ) -> Self:
        """From (rows, exits) arrays, and the length bucket of every row where they have one."""
        scaled = np.rint(confidences * MAX_UINT16).astype("<u2")
        return cls(
            confidences=b64encode(scaled.tobytes()),
            is_right=b64encode(is_right.astype(np.uint8).tobytes()),
            lengths=None if lengths is None else b64encode(lengths.astype("<u2").tobytes()),
        )

    def arrays(self, num_exits: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Confidences in [0, 1] and whether each answer was right, (rows, exits)."""
        scaled = np.frombuffer(self.confidences, "<u2").reshape(-1, num_exits)
        is_right = np.frombuffer(self.is_right, np.uint8).reshape(-1, num_exits)
        return scaled / MAX_UINT16, is_right.astype(np.bool_)

    @property
    def buckets(self) -> NDArray[np.int64] | None:
        """The length bucket of every row."""
        if self.lengths is None:
            return None
        return np.frombuffer(self.lengths, "<u2").astype(np.int64)


class Calibration(Record):
    """Everything fitted on the calibration split.

    An answer is right where it equals what `judged_by` names: the row's label, or without labels
    the last exit's answer. In that case every `accuracy` is agreement with the last exit. `rows` is
    None in bundles exported before there were simulations.
    """

    schema_version: Literal[1]
    judged_by: JudgedBy = "labels"
    confidence: Literal["max_probability"]
    num_rows: PositiveInt
    exits: tuple[ExitCalibration, ...]
    operating_points: dict[Annotated[str, Field(pattern=r"^[a-z_]+$")], OperatingPoint] = Field(
        min_length=1
    )
    rows: CalibrationRows | None = None

    @model_validator(mode="after")
    def _one_entry_per_exit(self) -> Self:
        num_exits = len(self.exits)
        if [e.exit for e in self.exits] != list(range(1, num_exits + 1)):
            raise ValueError(f"exits must be numbered 1 to {num_exits}, in order")
        if self.rows is not None:
            num_values = self.num_rows * num_exits
            sizes = len(self.rows.confidences), len(self.rows.is_right)
            if sizes != (2 * num_values, num_values):
                raise ValueError(f"rows must have {self.num_rows} rows of {num_exits} exits")
            if self.rows.lengths is not None and len(self.rows.lengths) != 2 * self.num_rows:
                raise ValueError(f"rows must have {self.num_rows} lengths, or none")
        for name, point in self.operating_points.items():
            is_given = [threshold is not None for threshold in point.thresholds]
            if is_given != [True] * (num_exits - 1) + [False]:
                raise ValueError(f"{name} must have a threshold for every exit but the last")
            if len(point.exit_shares) != num_exits:
                raise ValueError(f"{name} must have an exit share for every exit")
            consulted = sorted(set(point.consulted))
            if list(point.consulted) != consulted or consulted[-1] != num_exits:
                raise ValueError(f"{name} must consult exits in order, the last one last")
        return self


class GraphCost(Record):
    """Measured core seconds of one graph for each of the profile's batch sizes."""

    exit: PositiveInt
    median_s: tuple[Seconds, ...]
    p95_s: tuple[Seconds, ...]


class GraphCosts(Record):
    """Cost of every segment and exit head for rows of one size."""

    batch_sizes: tuple[PositiveInt, ...] = Field(min_length=1)
    segments: tuple[GraphCost, ...]
    exit_heads: tuple[GraphCost, ...]

    @model_validator(mode="after")
    def _one_entry_per_batch_size(self) -> Self:
        if list(self.batch_sizes) != sorted(set(self.batch_sizes)):
            raise ValueError("batch_sizes must rise")
        for cost in (*self.segments, *self.exit_heads):
            if {len(cost.median_s), len(cost.p95_s)} != {len(self.batch_sizes)}:
                raise ValueError(f"exit {cost.exit} must have one cost per batch size")
        return self


class LengthCosts(GraphCosts):
    """The same for texts of one length bucket."""

    length: PositiveInt


class CostProfile(GraphCosts):
    """Cost of every segment and exit head on one host.

    Of a text model it is the cost of the largest length bucket; `shorter` has the other buckets.
    """

    schema_version: Literal[1]
    hardware: str
    threads: PositiveInt
    runs: PositiveInt
    watts: float = Field(gt=0)
    energy_method: Literal["estimate", "rapl", "nvml"]
    shorter: tuple[LengthCosts, ...] = ()

    def of_length(self, length: int) -> Self:
        """This profile with the costs of a length bucket."""
        for costs in self.shorter:
            if costs.length == length:
                known = {"batch_sizes": costs.batch_sizes, "shorter": ()}
                graphs = {"segments": costs.segments, "exit_heads": costs.exit_heads}
                return self.model_copy(update=known | graphs)
        return self.model_copy(update={"shorter": ()})


def shapes(tensors: tuple[Tensor, ...]) -> str:
    """Tensors as a person reads them."""
    return ", ".join(f"{t.name}: {t.dtype} {list(t.shape)}" for t in tensors)


def version_of(directory_name: str) -> int | None:
    """The version a directory is named for, or None."""
    return int(directory_name) if re.fullmatch(r"[1-9][0-9]{0,8}", directory_name) else None
