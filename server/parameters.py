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

    latency_budget_ms: Positive | None = Field(None, description="from arrival to answer")
    energy_budget_mj: Positive | None = None
    operating_point: str | None = Field(None, description="default: balanced")
    threshold: float | None = Field(
        None, ge=0, le=1, description="confidence that every exit must exceed to answer"
    )
    min_exit: PositiveInt = Field(1, description="earliest exit that may answer for confidence")
    max_exit: PositiveInt | None = Field(None, description="last exit that may run")
    strict: bool = Field(False, description="refuse, 503, a budget too small for exit 1")
    priority: Literal["normal", "background"] = Field(
        "normal", description="background: runs while nothing else waits; no latency budget"
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
