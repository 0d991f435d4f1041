"""The Open Inference Protocol on a real server: what it refuses."""

import json
from typing import Any

import httpx
import pytest

from server.v2.infer import HEADER_LENGTH
from tests.e2e import v2
from tests.e2e.v2.conftest import IMAGE, INFER, MAX_IMAGES, refused


@pytest.mark.parametrize(
    "members",
    [
        {"shape": [2, 8, 8, 1]},  # C12
        {"shape": [1, 8, 8, 2]},
        {"shape": [-1, 8, 8, 1]},  # C13
        {"shape": [1, -8, -8, 1]},
        {"shape": [2**62, 8, 8, 1]},
        {"shape": [2**70, 8, 8, 1]},
        {"shape": [2**32, 2**32, 1, 1]},
        {"shape": [1.0, 8, 8, 1]},
        {"shape": [True, 8, 8, 1]},
        {"shape": ["1", 8, 8, 1]},
        {"shape": [0, 8, 8, 1]},  # C29
        {"shape": [MAX_IMAGES + 1, 8, 8, 1]},
        {"shape": [1, 1, 8, 8]},
        {"shape": [8, 8, 1]},
        {"shape": [64]},
        {"shape": []},
        {"shape": [1] * 1000},
        {"shape": None},
        {"datatype": "FP32"},  # C14
        {"datatype": "INT8"},
        {"datatype": "BOOL"},  # C25: no input is one
        {"datatype": "uint8"},
        {"datatype": 8},
        {"name": "image"},  # C15
        {"name": None},
        {"data": []},  # C12
        {"data": [0] * 63},
        {"data": [0] * 65},
        {"data": [[0] * 32, [0] * 32]},
        {"data": [256] + [0] * 63},  # C26
        {"data": [-1] + [0] * 63},
        {"data": [0.5] + [0] * 63},
        {"data": [True] + [0] * 63},
        {"data": [None] + [0] * 63},
        {"data": ["0"] + [0] * 63},
        {"data": [2**70] + [0] * 63},
        {"data": "AAAA"},
        {"data": {"0": 0}},
        {"data": None},
        {"parameters": {"binary_data_size": 64}},  # C22
        {"parameters": {"binary_data_size": -1}},
        {"parameters": {"binary_data_size": "64"}},
        {"parameters": {"shared_memory_region": "input"}},
        {"parameters": []},
    ],
)
def test_bad_inputs(client: httpx.Client, members: dict[str, Any]) -> None:
    said = refused(client.post(INFER, json={"inputs": [v2.tensor(IMAGE, **members)]}))
    assert said.startswith("inputs"), "the error names the field"


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"shape": [1, 8, 8, 2]}, "inputs.0.shape"),
        ({"shape": [0, 8, 8, 1]}, "inputs.0.shape"),
        ({"shape": [MAX_IMAGES + 1, 8, 8, 1]}, "inputs.0.shape"),
        ({"shape": [1.0, 8, 8, 1]}, "inputs.0.shape.0"),
        ({"shape": [2, 8, 8, 1]}, "inputs.0.data"),
        ({"data": [256] + [0] * 63}, "inputs.0.data"),
        ({"datatype": "FP32"}, "inputs.0.datatype"),
        ({"name": None}, "inputs.0.name"),
        ({"name": "image"}, "inputs"),
        ({"parameters": {"binary_data_size": -1}}, "inputs.0.parameters.binary_data_size"),
    ],
)
def test_the_field_at_fault_is_named(
    client: httpx.Client, members: dict[str, Any], field: str
) -> None:
    said = refused(client.post(INFER, json={"inputs": [v2.tensor(IMAGE, **members)]}))
    assert said.startswith(f"{field}: ")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "1e38", "0.0"])
def test_numbers_that_are_no_bytes(client: httpx.Client, number: str) -> None:  # C26
    body = json.dumps(v2.request(IMAGE)).replace("[0,", f"[{number},", 1)
    refused(client.post(INFER, content=body))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": []},
        {"inputs": [v2.tensor(IMAGE)] * 2},  # C15
        {"inputs": [v2.tensor(IMAGE), v2.tensor(IMAGE, name="other")]},
        {"inputs": v2.tensor(IMAGE)},
        {"inputs": [None]},
        v2.request(IMAGE, id=3),
        v2.request(IMAGE, outputs=[{"name": "logits"}]),  # C16
        v2.request(IMAGE, outputs=[{"name": "exit"}] * 2),
        v2.request(IMAGE, outputs=[{}]),
        v2.request(IMAGE, outputs=["exit"]),
        v2.request(IMAGE, outputs=[{"name": "exit", "parameters": {"binary_data": "yes"}}]),
        v2.request(IMAGE, outputs=[{"name": "exit", "parameters": {"classification": 1}}]),
        *[
            v2.request(IMAGE, outputs=[{"name": "probabilities", "parameters": parameters}])
            for parameters in (
                {"classification": 0},
                {"classification": 11},
                {"classification": 1.5},
                {"classification": True},
                {"shared_memory_region": "output"},
            )
        ],
        [],
        None,
        "images",
    ],
)
def test_bad_requests(client: httpx.Client, body: object) -> None:
    refused(client.post(INFER, json=body))


@pytest.mark.parametrize(
    "parameters",
    [
        {"latency_budget_ms": "fast"},
        {"latency_budget_ms": "20"},
        {"latency_budget_ms": None, "energy_budget_mj": []},
        {"latency_budget_ms": [20]},
        {"latency_budget_ms": {"ms": 20}},
        {"latency_budget_ms": 0},
        {"latency_budget_ms": -1},
        {"latency_budget_ms": True},
        {"energy_budget_mj": -1},
        {"threshold": 1.5},
        {"threshold": 0.5, "operating_point": "fast"},
        {"operating_point": "fastest"},
        {"operating_point": ""},
        {"operating_point": 1},
        {"min_exit": 0},
        {"min_exit": 4},
        {"min_exit": 1.5},
        {"min_exit": 3, "max_exit": 2},
        {"max_exit": 4},
        {"strict": "yes"},
        {"timeout": -1},
        {"timeout": 1.5},
        {"timeout": "1"},
        {"timeout": 10**400},
        {"timeout": 1000, "latency_budget_ms": 1},
        {"binary_data_output": "true"},
        {"latency_budget": 20},
        {"top_k": 2},
        {"model": "digits"},
        [],
        "fast",
    ],
)
def test_bad_parameters(client: httpx.Client, parameters: object) -> None:  # C27
    said = refused(client.post(INFER, json=v2.request(IMAGE, parameters=parameters)))
    if isinstance(parameters, dict):
        assert any(name in said for name in parameters), "the error names the parameter"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_budgets_that_are_no_numbers(client: httpx.Client, number: str) -> None:  # C27
    body = json.dumps(v2.request(IMAGE, parameters={"latency_budget_ms": 4711}))
    refused(client.post(INFER, content=body.replace("4711", number)))


@pytest.mark.parametrize("length", ["x", "-1", "1.5", "", "0x10", "²", "99999", "9" * 20])
def test_bad_header_lengths(client: httpx.Client, length: str) -> None:  # C20
    body, _ = v2.binary(IMAGE)
    headers = {HEADER_LENGTH.encode(): length.encode()}
    refused(client.post(INFER, content=body, headers=headers))


def test_header_length_that_is_missing_or_wrong(client: httpx.Client) -> None:  # C20
    body, headers = v2.binary(IMAGE)
    refused(client.post(INFER, content=body))
    for off in (-1, 1, 64):
        length = str(int(headers[HEADER_LENGTH]) + off)
        refused(client.post(INFER, content=body, headers={HEADER_LENGTH: length}))


@pytest.mark.parametrize("extra", [-64, -1, 1, 64])
def test_short_and_surplus_binary_data(client: httpx.Client, extra: int) -> None:  # C21, C22
    body, headers = v2.binary(IMAGE)
    other = body[:extra] if extra < 0 else body + bytes(extra)
    refused(client.post(INFER, content=other, headers=headers))
    parameters = {"binary_data_size": 64 + extra}
    given = v2.tensor(IMAGE, parameters=parameters)
    del given["data"]
    head = json.dumps({"inputs": [given]}).encode()
    headers = {HEADER_LENGTH: str(len(head))}
    refused(client.post(INFER, content=head + bytes(64 + extra), headers=headers))
    refused(client.post(INFER, content=head + bytes(64), headers=headers))


def test_data_given_twice(client: httpx.Client) -> None:
    given = v2.tensor(IMAGE, parameters={"binary_data_size": 64})
    head = json.dumps({"inputs": [given]}).encode()
    headers = {HEADER_LENGTH: str(len(head))}
    refused(client.post(INFER, content=head + bytes(64), headers=headers))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"rubbish",
        b"\xff\xfe",
        b'{"id": "\\ud800"}',
        b"1" * 5000,
        b"[" * 120 + b"]" * 120,
        b"[" * 50_000,
        b'{"inputs":' * 120 + b"1" + b"}" * 120,
        json.dumps(v2.request(IMAGE)).encode().replace(b"[0,", b"[" * 120 + b"]" * 120 + b","),
        json.dumps(v2.request(IMAGE, id=4711)).encode().replace(b"4711", b"[" * 120 + b"]" * 120),
        json.dumps(v2.request(IMAGE, x=4711)).encode().replace(b"4711", b"[" * 120 + b"]" * 120),
        json.dumps(v2.request(IMAGE, x=4711))
        .encode()
        .replace(b"4711", b'{"x":' * 120 + b"1" + b"}" * 120),
        json.dumps(v2.request(IMAGE)).encode() + b"{}",
    ],
)
def test_json_that_is_none_or_too_deep(client: httpx.Client, body: bytes) -> None:  # C37
    refused(client.post(INFER, content=body))


def test_members_that_are_not_ours_are_ignored(client: httpx.Client) -> None:
    asked = v2.request(IMAGE, model_name="digits", future={"a": [1]})
    assert client.post(INFER, json=asked).status_code == 200
