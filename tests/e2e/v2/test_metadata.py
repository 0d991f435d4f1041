"""The Open Inference Protocol on a real server: what it says of itself."""

import httpx
import pytest

from tests.e2e import v2
from tests.e2e.conftest import ByHand
from tests.e2e.v2.conftest import INFER, MAX_IMAGES, NAMES, refused


def test_server_metadata_lists_the_extensions(client: httpx.Client) -> None:  # C1
    for path in ("/v2", "/v2/"):
        said = client.get(path).json()
        assert set(said) == {"name", "version", "extensions"}
        assert said["name"] == "offramp"
        assert said["extensions"] == [
            "binary_tensor_data",
            "classification",
            "model_repository",
            "parameters",
            "statistics",
        ]


@pytest.mark.parametrize(
    "path",
    [
        "logging",
        "trace/setting",
        "systemsharedmemory/status",
        "cudasharedmemory/status",
        "models/digits/trace/setting",
        "models/digits/generate",
        "models/digits/generate_stream",
    ],
)
def test_extensions_that_are_not_listed_are_not_served(
    client: httpx.Client, path: str
) -> None:  # C1
    for method in ("GET", "POST"):
        refused(client.request(method, f"/v2/{path}"), 404)


def test_health(client: httpx.Client) -> None:  # C2, C3
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}


def test_model_metadata(client: httpx.Client) -> None:  # C5, C6
    said = client.get("/v2/models/digits").json()
    assert said == {
        "name": "digits",
        "versions": ["1", "2"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 1]}],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "exit", "datatype": "INT32", "shape": [-1]},
            {"name": "confidence", "datatype": "FP32", "shape": [-1]},
            {"name": "stop_reason", "datatype": "BYTES", "shape": [-1]},
        ],
    }
    assert client.get("/v2/models/digits/versions/1").json() == said


def test_model_configuration_is_what_tritons_tools_ask_for(client: httpx.Client) -> None:
    said = client.get("/v2/models/digits/config").json()
    assert said == {
        "name": "digits",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": MAX_IMAGES,
        "input": [{"name": "images", "data_type": "TYPE_UINT8", "dims": [8, 8, 1]}],
        "output": [
            {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [10]},
            {"name": "label", "data_type": "TYPE_STRING", "dims": [1]},
            {"name": "exit", "data_type": "TYPE_INT32", "dims": [1]},
            {"name": "confidence", "data_type": "TYPE_FP32", "dims": [1]},
            {"name": "stop_reason", "data_type": "TYPE_STRING", "dims": [1]},
        ],
    }
    assert client.get("/v2/models/digits/versions/2/config").json() == said
    refused(client.get("/v2/models/letters/config"), 404)


def test_outputs_are_what_the_metadata_says(client: httpx.Client, by_hand: ByHand) -> None:
    promised = {o["name"]: o for o in client.get("/v2/models/digits").json()["outputs"]}
    said = client.post(INFER, json=v2.request(by_hand.images[:3])).json()["outputs"]
    assert [output["name"] for output in said] == NAMES
    for output in said:
        assert output["datatype"] == promised[output["name"]]["datatype"]
        assert output["shape"] == [3, *promised[output["name"]]["shape"][1:]]


def test_model_readiness(client: httpx.Client) -> None:  # C4, C6, C7, C8
    for path in ("/v2/models/digits", "/v2/models/digits/versions/2"):
        assert client.get(f"{path}/ready").json() == {"name": "digits", "ready": True}


@pytest.mark.parametrize(
    "path",
    [
        "models/letters",
        "models/letters/ready",
        "models/letters/stats",
        "models/letters/versions/1",
        "models/digits/versions/3",
        "models/digits/versions/3/ready",
        "models/digits/versions/03",
        "models/digits/versions/x",
        "models/digits/versions/-1",
        "models/digits/versions/1.0",
        "models/digits/versions/99999999999999999999",
        "models/..",
        "models/../../etc/passwd",
        "models/%2e%2e",
        "models/..%2fdigits",
        "models/%2Fetc%2Fpasswd",
        "models/digits%2f1",
        "models/digits%00",
        "models/d%C3%AFgits",
        "models/" + "d" * 300,
        "models/digits/versions/..%2f1",
        "models",
        "nowhere",
        "health",
        "models/digits/",
    ],
)
def test_unknown_models_versions_and_paths(client: httpx.Client, path: str) -> None:  # C7 C8 C35
    refused(untidied(client, "GET", f"/v2/{path}"), 404)
    if path.startswith("models/"):
        refused(untidied(client, "POST", f"/v2/{path}/infer"), 404)


def untidied(client: httpx.Client, method: str, path: str) -> httpx.Response:
    """Sends a path exactly as it is written."""
    return client.request(method, "/", extensions={"target": path.encode()})


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/v2", "GET, HEAD"),
        ("PUT", "/v2/health/live", "GET, HEAD"),
        ("DELETE", "/v2/models/digits", "GET, HEAD"),
        ("GET", INFER, "POST"),
        ("GET", "/v2/repository/index", "POST"),
        ("GET", "/v2/repository/models/digits/load", "POST"),
    ],
)
def test_wrong_methods(client: httpx.Client, method: str, path: str, allow: str) -> None:  # C31
    said = client.request(method, path)
    refused(said, 405)
    assert said.headers["allow"] == allow


def test_head_is_a_get_and_slashes_count(client: httpx.Client) -> None:  # C34
    for path in ("/v2/health/live", "/v2/models/digits"):
        said = client.head(path)
        assert (said.status_code, said.content) == (200, b"")
        assert said.headers["content-length"] == client.get(path).headers["content-length"]
    said = client.head(INFER)
    assert (said.status_code, said.headers["allow"]) == (405, "POST")
    for path in ("/v2/health/live/", "/v2/models/digits/"):
        refused(client.get(path), 404)


@pytest.mark.parametrize("name", ["..%2f..", "%2e%2e", "..", "digits%2f1", "digits%00", "letters"])
@pytest.mark.parametrize("step", ["load", "unload"])
def test_models_outside_the_zoo(client: httpx.Client, name: str, step: str) -> None:  # C35
    refused(untidied(client, "POST", f"/v2/repository/models/{name}/{step}"), 404)
