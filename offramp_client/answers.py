"""What the server takes and says, as the dictionaries that its JSON is."""

from typing import Any, Literal, NotRequired, TypedDict

StopReason = Literal["confident", "deadline", "energy", "exit_limit", "final", "degraded"]


class Options(TypedDict, total=False):
    """What one request may ask for; the server's documentation says what each means."""

    model: str
    version: int
    latency_budget_ms: float
    energy_budget_mj: float
    operating_point: str
    threshold: float
    min_exit: int
    max_exit: int
    top_k: int
    trace: bool
    strict: bool
    priority: Literal["normal", "background"]


class Labelled(TypedDict):
    label: str
    index: int
    probability: float


class Budget(TypedDict):
    """The request's budget; `met` is true where none was set."""

    latency_ms: float | None
    energy_mj: float | None
    met: bool


class Cost(TypedDict):
    """What one row took; `total_ms` runs from the request's arrival."""

    total_ms: float
    queue_ms: float
    compute_ms: float
    energy_mj: float
    energy_source: str
    macs: int


class TraceEntry(TypedDict):
    exit: int
    label: str
    confidence: float
    at_ms: float


class Classification(TypedDict):
    """The answer for one image, text or row of numbers.

    `truncated` is there for texts: whether the text was longer than the model reads. `cached` is
    there where the server keeps answers: whether this is a kept one.
    """

    model: str
    version: int
    label: str
    index: int
    confidence: float
    top_k: list[Labelled]
    exit: int
    num_exits: int
    stop_reason: StopReason
    budget: Budget
    cost: Cost
    truncated: NotRequired[bool]
    cached: NotRequired[bool]
    trace: NotRequired[list[TraceEntry]]


class ExitSaid(TypedDict):
    """What one exit says of one row, `at_ms` after the request's arrival.

    The row is numbered from 0, as `image`, `text` or `row`.
    """

    image: NotRequired[int]
    text: NotRequired[int]
    row: NotRequired[int]
    label: str
    index: int
    confidence: float
    top_k: list[Labelled]
    exit: int
    num_exits: int
    at_ms: float


def answers_of(said: Any) -> list[Classification]:  # noqa: ANN401
    """The answers of a response, which has no list around a single one."""
    answers: list[Classification] = said.get("results", [said])
    return answers
