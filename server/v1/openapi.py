"""What the OpenAPI document says of `POST /v1/classify` beside its types."""

from typing import Any

import orjson

from server.http.contents import TEXT
from server.http.decode import MEDIA_TYPES
from server.v1 import examples
from server.v1.schemas import BODIES, Classification, Classifications, Parameters
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
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema["description"],
            "schema": schema,
        }
        for name, schema in Parameters.model_json_schema()["properties"].items()
    ],
    "requestBody": {
        "required": True,
        "content": {
            **{media_type: {"schema": BYTES} for media_type in MEDIA_TYPES},
            "multipart/form-data": {"schema": FORM},
            TEXT: {"schema": {"type": "string"}, "example": "what is my balance"},
            "application/json": {
                "schema": {"anyOf": [body.model_json_schema() for _, body in BODIES.values()]},
                "examples": examples.REQUESTS,
            },
        },
    },
}
STREAMED = event("exit", orjson.dumps(examples.EXIT)) + event(
    "final", orjson.dumps(examples.CLASSIFICATION)
)
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Classification | Classifications,
        "description": "The answer; as `text/event-stream`, where accepted, an `exit` event "
        "per exit as it is computed, then one `final` event, which is the plain answer, "
        "or an `error` event, which is a problem document",
        "content": {
            "application/json": {"example": examples.CLASSIFICATION},
            STREAM: {"schema": {"type": "string"}, "example": STREAMED.decode()},
        },
    }
}
