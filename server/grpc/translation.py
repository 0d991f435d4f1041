"""Between messages and what `/v2` understands: the same schemas, keys and limits. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message
from pydantic import ValidationError

from models.bundle.manifest import Manifest
from server.engine.job import Answer
from server.engine.model import ServedModel
from server.errors import BadBody, BadParameter
from server.grpc.open_inference_pb2 import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
)
from server.http.numbers import Array
from server.http.wording import milli
from server.running import Served
from server.v2.infer import sums
from server.v2.inputs import LENGTH_BYTES, num_values
from server.v2.outputs import array_of, array_of_answers
from server.v2.request_schemas import MAX_ENTRIES, InferRequest
from server.v2.requests import Inference, inference_of
from server.v2.tensors import datatype_of, to_bytes
from server.v2.wanted import Wanted

M = TypeVar("M", bound=Message)
T = TypeVar("T")
FINAL = "triton_final_response"
"""Tells the last response of a request in a stream, as in Triton's streams."""
CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""The field that holds the numbers of a datatype."""


def parse(kind: type[M], message: bytes) -> M:
    """Raises BadBody."""
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise BadBody(f"the message is no {kind.DESCRIPTOR.name}") from error


def understood(request: ModelInferRequest, manifest: Manifest, max_rows: int) -> Inference:
    """What a request asks for; raises BadBody or BadParameter."""
    raw, inputs = few(request.raw_input_contents), few(request.inputs)
    if raw and len(raw) != len(inputs):
        raise BadParameter("raw_input_contents", "must hold every input, or none")
    if raw and any(tensor.HasField("contents") for tensor in inputs):
        raise BadParameter("raw_input_contents", "cannot be given beside an input's contents")
    if not raw and all(tensor.datatype == "BYTES" for tensor in inputs):
        raw = [as_raw(tensor.contents.bytes_contents, max_rows) for tensor in inputs]
    most = num_values(manifest, max_rows)
    said = {
        "id": request.id,
        "inputs": [
            tensor_of(tensor, raw[index] if raw else None, most)
            for index, tensor in enumerate(inputs)
        ],
        "outputs": [
            {"name": wanted.name, "parameters": values_of(wanted.parameters)}
            for wanted in few(request.outputs)
        ],
        "parameters": values_of(request.parameters),
    }
    try:
        asked = InferRequest.model_validate(said)
    except ValidationError as error:
        raise BadParameter.of(error.errors(include_url=False, include_input=False)) from error
    return inference_of(asked, memoryview(b"".join(raw)), manifest, max_rows)


def few(entries: Iterable[T]) -> list[T]:
    """As many as the schemas take, and one more, for which they refuse the request."""
    return list(islice(entries, MAX_ENTRIES + 1))


def tensor_of(
    tensor: ModelInferRequest.InferInputTensor, raw: bytes | None, most: int
) -> dict[str, Any]:
    """An input as the schemas have it."""
    parameters = values_of(tensor.parameters)
    said = {"name": tensor.name, "datatype": tensor.datatype, "shape": few(tensor.shape)}
    if raw is not None:
        return said | {"parameters": parameters | {"binary_data_size": len(raw)}}
    return said | {"parameters": parameters, "data": elements(tensor, most)}


def elements(tensor: ModelInferRequest.InferInputTensor, most: int) -> list[Any]:
    """The typed contents; raises BadBody where there are more than any request needs."""
    if tensor.datatype not in CONTENTS:
        return []  # its datatype is refused
    field = CONTENTS[tensor.datatype]
    found: list[Any] = getattr(tensor.contents, field)
    if len(found) > most:
        raise BadBody(f"{field} has more values than any request needs")
    return list(found)


def as_raw(elements: Sequence[bytes], max_rows: int) -> bytes:
    """BYTES as they are in raw contents: each element after its length; a row has one.

    Raises BadBody where there are more than any request needs.
    """
    if len(elements) > max_rows:
        raise BadBody("bytes_contents has more values than any request needs")
    return b"".join(len(each).to_bytes(LENGTH_BYTES, "little") + each for each in elements)


def values_of(parameters: Mapping[str, Message]) -> dict[str, Any]:
    """Parameters by name; raises BadParameter for one without a value."""
    said = {}
    for name, parameter in islice(parameters.items(), MAX_ENTRIES + 1):
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise BadParameter(f"parameters.{name}", "has no value")
        said[name] = getattr(parameter, kind)
    return said


def parameter_of(value: str | float | bool) -> InferParameter:
    if isinstance(value, str):
        return InferParameter(string_param=value)
    if isinstance(value, bool):
        return InferParameter(bool_param=value)
    if isinstance(value, int):
        return InferParameter(int64_param=value)
    return InferParameter(double_param=value)


def response_of(asked: Inference, served: Served) -> ModelInferResponse:
    """One row of every output per row of the request; parameters sum up what it took."""
    model = served.demand.model
    labels = model.manifest.labels
    said = begun(asked, model, sums(served))
    for wanted in asked.outputs:
        add(said, wanted, array_of(wanted, served.outcomes, labels))
    return said


def exit_response(
    asked: Inference, model: ServedModel, arrival: float, row: int, answer: Answer
) -> ModelInferResponse:
    """What one exit says of one row. It has no stop reason yet."""
    about = {"row": row, "exit": answer.exit, "at_ms": milli(answer.at_s - arrival), FINAL: False}
    said = begun(asked, model, about)
    for wanted in asked.outputs:
        if wanted.name != "stop_reason":
            add(said, wanted, array_of_answers(wanted, [Said(answer)], model.manifest.labels))
    return said


class Said:
    """One exit's answer, for what reads outcomes."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer


def begun(
    asked: Inference, model: ServedModel, parameters: Mapping[str, str | float | bool]
) -> ModelInferResponse:
    """A response without outputs."""
    name, version = model.key
    return ModelInferResponse(
        model_name=name,
        model_version=str(version),
        id=asked.id,
        parameters={name: parameter_of(value) for name, value in parameters.items()},
    )


def add(response: ModelInferResponse, wanted: Wanted, array: Array) -> None:
    response.outputs.add(name=wanted.name, datatype=datatype_of(array), shape=array.shape)
    response.raw_output_contents.append(to_bytes(array))
