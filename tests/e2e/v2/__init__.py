"""Inference requests of the protocol as any HTTP client would make them."""

import json
import struct
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from server.v2.infer import HEADER_LENGTH

Images = NDArray[np.uint8]


def tensor(images: Images, **members: object) -> dict[str, Any]:
    """The input with its data as flat JSON; `members` replace or add to what is right."""
    return {
        "name": "images",
        "datatype": "UINT8",
        "shape": list(images.shape),
        "data": images.ravel().tolist(),
    } | members


def request(images: Images, **members: object) -> dict[str, Any]:
    return {"inputs": [tensor(images)]} | members


def binary(images: Images, **members: object) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request with its images behind the JSON."""
    given = tensor(images, parameters={"binary_data_size": images.size})
    del given["data"]
    head = json.dumps({"inputs": [given]} | members).encode()
    return head + images.tobytes(), {HEADER_LENGTH: str(len(head))}


def outputs(said: httpx.Response) -> dict[str, Any]:
    """Every output of a response as a list or array, whether JSON or binary."""
    assert said.status_code == 200, said.text
    length = said.headers.get(HEADER_LENGTH)
    head, tail = said.content, b""
    if length is not None:
        assert said.headers["content-type"] == "application/octet-stream"
        head, tail = head[: int(length)], head[int(length) :]
    read: dict[str, Any] = {}
    for output in json.loads(head)["outputs"]:
        if "data" in output:
            read[output["name"]] = np.array(output["data"]).reshape(output["shape"]).tolist()
            continue
        size = output["parameters"]["binary_data_size"]
        part, tail = tail[:size], tail[size:]
        assert len(part) == size
        read[output["name"]] = of_bytes(part, output["datatype"], output["shape"])
    assert tail == b""
    return read


def of_bytes(content: bytes, datatype: str, shape: list[int]) -> list[Any]:
    if datatype != "BYTES":
        dtype = {"FP32": "<f4", "INT32": "<i4"}[datatype]
        numbers: list[Any] = np.frombuffer(content, dtype).reshape(shape).tolist()
        return numbers
    texts = []
    while content:
        (size,) = struct.unpack_from("<I", content)
        texts.append(content[4 : 4 + size].decode())
        content = content[4 + size :]
    nested: list[Any] = np.array(texts, object).reshape(shape).tolist()
    return nested
