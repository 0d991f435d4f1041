"""What the OpenAPI document says of `POST /v1/classify` beside its types."""

import json
from typing import Any

from server.http.decode import MEDIA_TYPES
from server.v1 import examples
from server.v1.schemas import JsonBody, Parameters
from server.v1.streaming import MEDIA_TYPE as STREAM
from server.v1.streaming import event

BYTES = {"type": "string", "format": "binary"}
FORM = {
    "type": "object",
    "required": ["image"],
    "properties": {"image": {"type": "array", "items": BYTES}},
}
REQUEST: dict[str, Any] = {
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in Parameters.model_json_schema()["properties"].items()
    ],
    "requestBody": {
        "required": True,
        "content": {
            **{media_type: {"schema": BYTES} for media_type in MEDIA_TYPES},
            "multipart/form-data": {"schema": FORM},
            "application/json": {
                "schema": JsonBody.model_json_schema(),
                "examples": examples.REQUESTS,
            },
        },
    },
}
STREAMED = event("exit", json.dumps(examples.EXIT)) + event(
    "final", json.dumps(examples.CLASSIFICATION)
)
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; as `text/event-stream`, where accepted, an `exit` event "
        "per exit as it is computed, then one `final` event, which is the plain answer",
        "content": {
            "application/json": {"example": examples.CLASSIFICATION},
            STREAM: {"schema": {"type": "string"}, "example": STREAMED.decode()},
        },
    }
}
