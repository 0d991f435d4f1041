"""The protocol's requests. Members that are not ours are ignored."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeInt, PositiveInt

from server.parameters import InferenceParameters

MAX_ENTRIES = 32
"""Entries of any list or object but tensor data: more is no request that we could answer."""
Few = Field(max_length=MAX_ENTRIES)


def null_is(empty: dict[str, Any] | list[Any], kind: Any) -> BeforeValidator:  # noqa: ANN401
    """Clients write null for what they leave out; the document says that they may."""
    return BeforeValidator(
        lambda given: empty if given is None else given, json_schema_input_type=kind | None
    )


class Member(BaseModel):
    """Part of a request; converts nothing."""

    model_config = ConfigDict(frozen=True, strict=True, protected_namespaces=())


class InputParameters(Member):
    binary_data_size: NonNegativeInt | None = Field(
        None, description="Bytes of this tensor behind the JSON. Default: its elements are in data."
    )
    shared_memory_region: None = Field(None, description="not served")


class InputTensor(Member):
    """A tensor; its elements are in `data` or, binary, behind the JSON."""

    name: str
    datatype: str
    shape: Annotated[list[int], Few]
    data: list[Any] | None = None
    parameters: Annotated[InputParameters, null_is({}, InputParameters)] = InputParameters()


class OutputParameters(Member):
    """How an output is wanted: binary, or as its `classification` most probable labels."""

    binary_data: bool | None = Field(
        None, description="Send the output in binary. Default: the request's binary_data_output."
    )
    classification: PositiveInt | None = Field(
        None,
        description="Send this many most probable labels, from 1, as probability:index:label."
        " Default: every probability as a number.",
    )
    shared_memory_region: None = Field(None, description="not served")


class RequestedOutput(Member):
    name: str
    parameters: Annotated[OutputParameters, null_is({}, OutputParameters)] = OutputParameters()


FewOutputs = Annotated[list[RequestedOutput], Few]
FewParameters = Annotated[dict[str, Any], Few]


PARAMETERS: dict[str, Any] = InferenceParameters.model_json_schema()["properties"] | {
    "timeout": {
        "type": "integer",
        "minimum": 0,
        "description": "Triton's: microseconds, a latency budget; excludes latency_budget_ms."
        " Default: 0, no limit.",
    },
    "binary_data_output": {
        "type": "boolean",
        "description": "Send outputs in binary, unless they say otherwise. Default: false.",
    },
}


class InferRequest(Member):
    """An inference request. Without `outputs` it asks for all of them."""

    id: str | None = None
    inputs: Annotated[list[InputTensor], Few]
    outputs: Annotated[FewOutputs, null_is([], FewOutputs)] = []
    parameters: Annotated[FewParameters, null_is({}, FewParameters)] = Field(
        {}, json_schema_extra={"properties": PARAMETERS}
    )


class IndexRequest(Member):
    ready: bool = Field(False, description="List only what is served. Default: false.")


class ManageParameters(Member):
    """`version` narrows the request to one; nothing here depends on other models."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: PositiveInt | None = Field(
        None, description="Version to load or unload, from 1. Default: every version."
    )
    unload_dependents: bool | None = Field(
        None, description="Changes nothing: no model depends on another."
    )


class ManageRequest(Member):
    parameters: Annotated[FewParameters, null_is({}, FewParameters)] = {}
