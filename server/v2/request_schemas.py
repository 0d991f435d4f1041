"""The protocol's requests. Members that are not ours are ignored."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeInt, PositiveInt

NoneIsDefault = BeforeValidator(lambda given: {} if given is None else given)
NoneIsEmpty = BeforeValidator(lambda given: [] if given is None else given)
"""Clients write null for what they leave out."""
MAX_ENTRIES = 32
"""Entries of any list or object but tensor data: more is no request that we could answer."""
Few = Field(max_length=MAX_ENTRIES)


class Member(BaseModel):
    """Part of a request; converts nothing."""

    model_config = ConfigDict(frozen=True, strict=True, protected_namespaces=())


class InputParameters(Member):
    binary_data_size: NonNegativeInt | None = None
    shared_memory_region: None = Field(None, description="not served")


class InputTensor(Member):
    """A tensor; its elements are in `data` or, binary, behind the JSON."""

    name: str
    datatype: str
    shape: Annotated[list[int], Few]
    data: list[Any] | None = None
    parameters: Annotated[InputParameters, NoneIsDefault] = InputParameters()


class OutputParameters(Member):
    """How an output is wanted: binary, or as its `classification` most probable labels."""

    binary_data: bool | None = None
    classification: PositiveInt | None = None
    shared_memory_region: None = Field(None, description="not served")


class RequestedOutput(Member):
    name: str
    parameters: Annotated[OutputParameters, NoneIsDefault] = OutputParameters()


class InferRequest(Member):
    """An inference request. Without `outputs` it asks for all of them."""

    id: str | None = None
    inputs: Annotated[list[InputTensor], Few]
    outputs: Annotated[list[RequestedOutput], Few, NoneIsEmpty] = []
    parameters: Annotated[dict[str, Any], Few, NoneIsDefault] = {}


class IndexRequest(Member):
    ready: bool = False


class ManageParameters(Member):
    """`version` narrows the request to one; nothing here depends on other models."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: PositiveInt | None = None
    unload_dependents: bool | None = None


class ManageRequest(Member):
    parameters: Annotated[dict[str, Any], Few, NoneIsDefault] = {}
