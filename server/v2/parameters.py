"""From a request's parameters to budgets and exits. Pure."""

from pydantic import ValidationError

from server.errors import BadParameter
from server.parameters import InferenceParameters

RESERVED = ("sequence_id", "sequence_start", "sequence_end", "headers", "content_type")
RESERVED_PREFIX = "triton_"
"""Parameters of Triton and MLServer that change nothing here; another unknown one is refused."""
MAX_US = 2**64 - 1
"""The largest that gRPC can say; numbers of JSON have no end."""


def parameters_of(given: dict[str, object]) -> InferenceParameters:
    """Budgets and exits; Triton's `timeout`, in microseconds, is a latency budget, 0 none."""
    ours = {
        name: value
        for name, value in given.items()
        if name not in RESERVED and not name.startswith(RESERVED_PREFIX)
    }
    if type(ours.get("priority")) is int:  # Triton's, which changes nothing here
        del ours["priority"]
    timeout = ours.pop("timeout", 0)
    if type(timeout) is not int or not 0 <= timeout <= MAX_US:
        raise BadParameter("parameters.timeout", "must be a whole number of microseconds, from 0")
    if timeout:
        if "latency_budget_ms" in ours:
            raise BadParameter("parameters.timeout", "excludes latency_budget_ms")
        ours["latency_budget_ms"] = timeout / 1000
    try:
        return InferenceParameters.model_validate(ours, strict=True)
    except ValidationError as error:
        raise BadParameter.of(error.errors(include_url=False, include_input=False)) from error
