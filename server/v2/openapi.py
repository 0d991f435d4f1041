"""What the OpenAPI document says of bodies that FastAPI does not read, and of every error."""

from typing import Any

from pydantic import BaseModel

from server.v2.request_schemas import InferRequest
from server.v2.response_schemas import InferResponse, ProtocolError

Schema = dict[str, Any]
Responses = dict[int | str, dict[str, Any]]

BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
ERRORS: Responses = {statuses: {"model": ProtocolError} for statuses in ("4XX", "5XX")}
INFER_RESPONSES: Responses = {200: {"model": InferResponse, "content": BINARY}}


def body_of(kind: type[BaseModel], *, is_required: bool = False) -> Schema:
    """A JSON body; that of an inference may have binary data behind it."""
    content = {"application/json": {"schema": schema_of(kind)}}
    if kind is InferRequest:
        content |= BINARY
    return {"requestBody": {"required": is_required, "content": content}}


def schema_of(kind: type[BaseModel]) -> Schema:
    """A model's schema without references: they would lead nowhere in the document."""
    schema = kind.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolved(part: Any) -> Any:  # noqa: ANN401
        if isinstance(part, list):
            return [resolved(entry) for entry in part]
        if not isinstance(part, dict):
            return part
        name = part.get("$ref", "").removeprefix("#/$defs/")
        given = {key: resolved(value) for key, value in part.items() if key != "$ref"}
        return resolved(definitions[name]) | given if name else given

    whole: Schema = resolved(schema)
    return whole
