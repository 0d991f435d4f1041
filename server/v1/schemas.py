"""What a classification request may say and what its answer holds."""

from base64 import b64decode
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field, PositiveInt

from models.bundle.manifest import JudgedBy, Resize
from models.bundle.policy import StopReason
from server.parameters import InferenceParameters


def decoded(text: object) -> bytes:
    """Strict base64; pydantic's own type skips characters outside the alphabet."""
    if not isinstance(text, str):
        raise ValueError("must be a base64 string")
    return b64decode(text, validate=True)


Base64 = Annotated[bytes, BeforeValidator(decoded, json_schema_input_type=str)]


class Parameters(InferenceParameters):
    """The same and more, as query parameters or body fields."""

    model: str | None = Field(None, description="needed where several models are served")
    version: PositiveInt | None = Field(None, description="default: the highest")
    top_k: PositiveInt = Field(1, description="labels in the answer, most probable first")
    trace: bool = Field(False, description="add what each exit said, and when")


class JsonBody(Parameters):
    """A JSON request: base64 images, and any parameter."""

    images: list[Base64] = Field(min_length=1)


class Labelled(BaseModel):
    label: str
    index: int
    probability: float


class BudgetReport(BaseModel):
    """The request's budget; `met` is true where none was set."""

    latency_ms: float | None
    energy_mj: float | None
    met: bool


class CostReport(BaseModel):
    """What one image took; `total_ms` runs from the request's arrival."""

    total_ms: float
    queue_ms: float
    compute_ms: float
    energy_mj: float
    energy_source: str
    macs: int


class TraceEntry(BaseModel):
    """What one exit said, `at_ms` after the request's arrival."""

    exit: int
    label: str
    confidence: float
    at_ms: float


class Classification(BaseModel):
    """The answer for one image."""

    model: str
    version: int
    label: str
    index: int
    confidence: float
    top_k: list[Labelled]
    exit: int
    num_exits: int
    stop_reason: StopReason
    budget: BudgetReport
    cost: CostReport
    trace: list[TraceEntry] | None = Field(None, exclude_if=lambda entries: entries is None)


class Classifications(BaseModel):
    """The answers for several images, in their order."""

    results: list[Classification]


class ExitEvent(BaseModel):
    """What one exit says of one image, numbered from 0, `at_ms` after the request's arrival."""

    image: int
    label: str
    index: int
    confidence: float
    top_k: list[Labelled]
    exit: int
    num_exits: int
    at_ms: float


class GraphInfo(BaseModel):
    """What a segment or an exit head is expected to cost on this host, for one row."""

    macs: int
    latency_ms: float
    energy_mj: float


class ExitInfo(BaseModel):
    """An exit's accuracy on the calibration split and its expected cost on this host.

    `macs` and `latency_ms` are those of all segments up to it and of its head alone.
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
    mean_macs: float
    exit_shares: tuple[float, ...]
    certificate: CertificateInfo | None


class InputInfo(BaseModel):
    """What the model takes. Images of other sizes are fitted by the rule `resize`.

    `squash` gives up the aspect ratio. `crop` scales the short side, to `short_side` pixels where
    that is given, and cuts the centre. `pad` scales the long side and fills up.
    """

    kind: str
    height: int
    width: int
    channels: int
    resize: Resize
    short_side: int | None


class VersionInfo(BaseModel):
    """One version. Accuracies count an answer as right where it equals what `judged_by` names."""

    version: int
    input: InputInfo
    labels: tuple[str, ...]
    judged_by: JudgedBy = Field(description="what accuracy compares answers with")
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
