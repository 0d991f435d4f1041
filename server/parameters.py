"""The parameters of every row of a request, in any protocol."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from models.bundle.policy import Policy, policy_at, policy_of_threshold
from server.engine.job import Budget
from server.engine.model import DEFAULT_OPERATING_POINT, ServedModel
from server.errors import BadParameter

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class InferenceParameters(BaseModel):
    """The stop rule and the budget of every row."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    latency_budget_ms: Positive | None = Field(
        None,
        description="Milliseconds from the request's arrival to its answer, above 0. No segment"
        " begins that is expected to end later. Default: no limit.",
    )
    energy_budget_mj: Positive | None = Field(
        None,
        description="Millijoules for each row, above 0. No segment begins that is expected to"
        " exceed them. Default: no limit.",
    )
    operating_point: str | None = Field(
        None,
        description="Name of fitted thresholds, and of the exits to consult: one of the model's,"
        " such as fast, balanced or accurate. Default: balanced.",
    )
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Confidence, as the version measures it, 0 to 1, that an exit must exceed to"
        " answer; every exit is consulted. At 1 only the last exit answers. Excludes"
        " operating_point. Default: those of the operating point.",
    )
    min_exit: PositiveInt = Field(
        1, description="Earliest exit that may answer for its confidence, from 1. Default: 1."
    )
    max_exit: PositiveInt | None = Field(
        None,
        description="Last exit that may run, from min_exit to the model's number of exits."
        " Default: the model's last.",
    )
    strict: bool = Field(
        False,
        description="Refuse with 503, before decoding, a budget that decoding and exit 1 are"
        " expected to exceed. Default: false, which answers all the same.",
    )
    priority: Literal["normal", "background"] = Field(
        "normal",
        description="background: run only while no other request waits; it excludes a latency"
        " budget. Default: normal.",
    )

    @property
    def is_background(self) -> bool:
        return self.priority == "background"


def policy_of(parameters: InferenceParameters, model: ServedModel) -> Policy:
    """The request's stop rule on this model; raises BadParameter."""
    num_exits = model.manifest.num_exits
    min_exit, max_exit = parameters.min_exit, parameters.max_exit or num_exits
    if max_exit > num_exits:
        raise BadParameter("max_exit", f"there are {num_exits} exits")
    if min_exit > max_exit:
        raise BadParameter("min_exit", f"exit {max_exit} is the last that may answer")
    if parameters.threshold is not None:
        if parameters.operating_point is not None:
            raise BadParameter("threshold", "excludes operating_point")
        return policy_of_threshold(
            parameters.threshold, num_exits, min_exit=min_exit, max_exit=max_exit
        )
    name = parameters.operating_point
    if name is None:
        name = DEFAULT_OPERATING_POINT
    if name not in model.operating_points:
        known = ", ".join(model.operating_points)
        raise BadParameter("operating_point", f"{name!r} is none of {known}")
    return policy_at(model.operating_points[name], min_exit=min_exit, max_exit=max_exit)


def budget_of(parameters: InferenceParameters) -> Budget:
    """The request's budget in base units; raises BadParameter.

    Idle time comes when it comes: background work cannot be promised an answer in time.
    """
    latency, energy = parameters.latency_budget_ms, parameters.energy_budget_mj
    if parameters.is_background and latency is not None:
        raise BadParameter("priority", "background excludes a latency budget")
    return Budget(
        latency_s=None if latency is None else latency / 1000,
        energy_j=None if energy is None else energy / 1000,
    )
