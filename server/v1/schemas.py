"""What a classification request may say and what its answer holds."""

from base64 import b64decode
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, PositiveInt

from models.bundle.calibration import JudgedBy
from models.bundle.confidence import Measure
from models.bundle.image_input import Resize
from models.bundle.policy import StopReason
from server.http.contents import Kind
from server.parameters import InferenceParameters


def decoded(text: object) -> bytes:
    """Strict base64; pydantic's own type skips characters outside the alphabet."""
    if not isinstance(text, str):
        raise ValueError("must be a base64 string")
    return b64decode(text, validate=True)


def is_none(value: object) -> bool:
    return value is None


Base64 = Annotated[bytes, BeforeValidator(decoded, json_schema_input_type=str)]


class Parameters(InferenceParameters):
    """The same and more, as query parameters or body fields."""

    model: str | None = Field(
        None,
        description="Name of the model. Needed where several are served. Default: the only one.",
    )
    version: PositiveInt | None = Field(
        None, description="Version of the model, from 1. Default: the highest that is served."
    )
    top_k: PositiveInt = Field(
        1,
        description="Number of labels in the answer, most probable first, from 1 to the number of"
        " labels. Default: 1.",
    )
    trace: bool = Field(
        False, description="Add what each consulted exit said, and when. Default: false."
    )


class ImagesBody(Parameters):
    """A JSON request: base64 images, and any parameter."""

    images: list[Base64] = Field(min_length=1)


class TextsBody(Parameters):
    """A JSON request: texts, and any parameter."""

    texts: list[str] = Field(min_length=1, examples=[["what is my balance", "play a song"]])


ROW_SCHEMA: dict[str, Any] = {"type": ["object", "array", "number", "boolean"]}


class RowsBody(Parameters):
    """A JSON request: rows of numbers, and any parameter.

    A row is an object with a value for each of the model's tensors; where the model has one tensor,
    a row may be its value alone. A value is a number or nested lists of numbers.
    """

    rows: list[Any] = Field(
        min_length=1,
        json_schema_extra={"items": ROW_SCHEMA},
        examples=[[[5.1, 3.5, 1.4, 0.2]], [{"measures": [5.1, 3.5], "colour": [2]}]],
    )


BODIES: dict[str, tuple[Kind, type[Parameters]]] = {
    "images": ("image", ImagesBody),
    "texts": ("text", TextsBody),
    "rows": ("tensor", RowsBody),
}
"""The field with the rows, what they are, and the whole body."""


class Labelled(BaseModel):
    """A label, its place in the model's list from 0, and its calibrated probability, 0 to 1."""

    label: str
    index: int
    probability: float


class BudgetReport(BaseModel):
    """The request's budget, and whether the answer kept within it."""

    latency_ms: float | None = Field(description="Milliseconds asked for; null: no limit.")
    energy_mj: float | None = Field(description="Millijoules asked for; null: no limit.")
    met: bool = Field(description="True also where no budget was set.")


class CostReport(BaseModel):
    """What one row took."""

    total_ms: float = Field(description="Milliseconds from the request's arrival to its answer.")
    queue_ms: float = Field(description="Milliseconds of waiting for its segments.")
    compute_ms: float = Field(description="Milliseconds in segments and exit heads.")
    energy_mj: float = Field(description="Millijoules of its segments and exit heads.")
    energy_source: str = Field(description="What told the energy: rapl, nvml or estimate.")
    macs: int = Field(description="Multiply-accumulates of its segments and exit heads.")


class TraceEntry(BaseModel):
    """What one exit said, `at_ms` after the request's arrival."""

    exit: int
    label: str
    confidence: float
    at_ms: float


class Classification(BaseModel):
    """The answer for one image, text or row; of a text, whether it was too long and was cut.

    `cached` is there where the server keeps answers: whether this is a kept one.
    """

    model: str
    version: int
    label: str = Field(description="The most probable label.")
    index: int = Field(description="The label's place in the model's list, from 0.")
    confidence: float = Field(
        description="What thresholds are compared with, 0 to 1: see the version's `confidence`."
    )
    top_k: list[Labelled] = Field(description="The most probable labels, most probable first.")
    exit: int = Field(description="The exit that answered, from 1.")
    num_exits: int = Field(description="The model's number of exits.")
    stop_reason: StopReason = Field(
        description="Why this exit answered. confident: its confidence exceeded its threshold."
        " deadline, energy: the budget would not cover the next exit. exit_limit: max_exit."
        " final: there is no further exit. degraded: a later segment failed."
    )
    budget: BudgetReport
    cost: CostReport
    truncated: bool | None = Field(None, exclude_if=is_none)
    cached: bool | None = Field(None, exclude_if=is_none)
    trace: list[TraceEntry] | None = Field(None, exclude_if=is_none)


class Classifications(BaseModel):
    """The answers for several rows, in their order."""

    results: list[Classification]


class ExitEvent(BaseModel):
    """What one exit says of one row, `at_ms` after the request's arrival.

    The row is numbered from 0 as `image`, `text` or `row`, by what the model takes.
    """

    image: int | None = Field(None, exclude_if=is_none)
    text: int | None = Field(None, exclude_if=is_none)
    row: int | None = Field(None, exclude_if=is_none)
    label: str
    index: int
    confidence: float
    top_k: list[Labelled]
    exit: int
    num_exits: int
    at_ms: float


class GraphInfo(BaseModel):
    """What a segment or an exit head is expected to cost on this host, for one row.

    Of texts, for the longest one.
    """

    macs: int
    latency_ms: float
    energy_mj: float


class ExitInfo(BaseModel):
    """An exit's accuracy on the calibration split and its expected cost on this host.

    `macs` and `latency_ms` are those of all segments up to it and of its head alone; of texts,
    those of the longest one.
    """

    exit: int
    accuracy: float
    macs: int
    latency_ms: float
    segment: GraphInfo
    head: GraphInfo


class CertificateInfo(BaseModel):
    """What stopping early costs at most against the last exit, but for requests cut short."""

    max_accuracy_drop: float
    max_disagreement: float | None
    holds_with_probability: float
    num_rows: int


class OperatingPointInfo(BaseModel):
    """An operating point, as fitted on the calibration split."""

    thresholds: tuple[float | None, ...]
    consulted: tuple[int, ...]
    accuracy: float
    mean_macs: float = Field(
        description="Multiply-accumulates of the segments and exit heads that ran, mean over the"
        " calibration rows. Texts count with their own lengths."
    )
    exit_shares: tuple[float, ...]
    certificate: CertificateInfo | None


class ImageInfo(BaseModel):
    """Images. Other sizes are fitted by the rule `resize`.

    `squash` gives up the aspect ratio. `crop` scales the short side, to `short_side` pixels where
    that is given, and cuts the centre. `pad` scales the long side and fills up.
    """

    kind: Literal["image"]
    height: int
    width: int
    channels: int
    resize: Resize
    short_side: int | None


class TextInfo(BaseModel):
    """Texts. A text of more than `max_tokens` is cut there, one of more characters is refused.

    A text costs as much as the smallest length, in tokens, that holds it.
    """

    kind: Literal["text"]
    lengths: tuple[int, ...]
    max_tokens: int
    max_characters: int


class TensorPart(BaseModel):
    """One tensor of a row; `span` is the smallest and the largest of its integers."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    span: tuple[int, int] | None


class TensorInfo(BaseModel):
    """Rows of numbers, of one tensor or several."""

    kind: Literal["tensor"]
    tensors: list[TensorPart]


class RequestExample(BaseModel):
    """A request that the model answers: a POST of `body` as JSON."""

    path: str
    body: dict[str, Any]


class VersionInfo(BaseModel):
    """One version. Accuracies count an answer as right where it equals what `judged_by` names."""

    version: int
    input: ImageInfo | TextInfo | TensorInfo = Field(discriminator="kind")
    example: RequestExample | None
    labels: tuple[str, ...]
    judged_by: JudgedBy = Field(description="what accuracy compares answers with")
    confidence: Measure = Field(
        description="what confidence is: the largest probability, or how far that is above the next"
    )
    exits: list[ExitInfo]
    overhead_ms: float = Field(description="what a step takes beyond its segment and exit head")
    energy_source: str
    operating_points: dict[str, OperatingPointInfo]


class ModelInfo(BaseModel):
    """A model and its versions, the default one first."""

    name: str
    versions: list[VersionInfo]


class ModelList(BaseModel):
    models: list[ModelInfo]


class CalibrationInfo(BaseModel):
    """What every exit said of every row of the calibration split: base64, row by row.

    `confidences` are little-endian 16-bit integers, 65535 for 1; `is_right` is one byte each. Both
    are null where the bundle has no such rows.
    """

    version: int
    num_rows: int
    num_exits: int
    confidences: str | None
    is_right: str | None
