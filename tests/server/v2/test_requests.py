"""Requests, read without a server: understood in every form, refused whatever the bytes."""

import json
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from models.bundle.bundle import Bundle, load_bundle
from models.bundle.manifest import Manifest
from server.errors import BadBody, BadParameter
from server.http.numbers import Array
from server.http.rows import Arrays
from server.v2.request_schemas import IndexRequest, InferRequest, ManageRequest
from server.v2.requests import Inference, parse, read_inference
from server.v2.wanted import OUTPUT_DATATYPES
from tests.e2e.test_shipped import BUNDLE

MAX_ROWS = 4
SIZE = 32 * 32 * 3
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=5), values),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    bundle: Bundle = load_bundle(BUNDLE)
    return bundle.manifest


def images_of(read: Inference) -> Array:
    assert isinstance(read.rows, Arrays)
    (images,) = read.rows.arrays
    return images


def request(members: Mapping[str, object] = {}, rows: int = 1) -> bytes:
    """A binary request's JSON; `members` replace or add to what is right."""
    shape = [rows, 32, 32, 3]
    parameters = {"binary_data_size": rows * SIZE}
    tensor = {"name": "images", "datatype": "UINT8", "shape": shape, "parameters": parameters}
    return json.dumps({"inputs": [tensor], **members}).encode()


@given(rows=st.integers(1, MAX_ROWS), seed=st.integers(0, 2**32 - 1))
def test_binary_images_arrive_as_they_were(manifest: Manifest, rows: int, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (rows, 32, 32, 3), np.uint8)
    head = request(rows=rows)
    read = read_inference(head + images.tobytes(), str(len(head)), manifest, MAX_ROWS)
    np.testing.assert_array_equal(images_of(read), images)
    assert [wanted.name for wanted in read.outputs] == list(OUTPUT_DATATYPES)


@given(body=st.binary(), header_length=st.none() | st.text() | st.integers().map(str))
def test_any_bytes_are_refused(manifest: Manifest, body: bytes, header_length: str | None) -> None:
    with pytest.raises((BadBody, BadParameter)):
        read_inference(body, header_length, manifest, MAX_ROWS)


@given(member=st.sampled_from(["id", "inputs", "outputs", "parameters"]), value=JSON)
def test_any_member_is_understood_or_refused(
    manifest: Manifest, member: str, value: object
) -> None:
    head = request({member: value})
    try:
        read = read_inference(head + bytes(SIZE), str(len(head)), manifest, MAX_ROWS)
    except (BadBody, BadParameter):
        return
    assert images_of(read).shape == (1, 32, 32, 3)


@pytest.mark.parametrize("timeout", [20_000, 1, 2**40])
def test_tritons_timeout_is_a_latency_budget_in_microseconds(
    manifest: Manifest, timeout: int
) -> None:
    head = request({"parameters": {"timeout": timeout, "priority": 1, "triton_x": "y"}})
    read = read_inference(head + bytes(SIZE), str(len(head)), manifest, MAX_ROWS)
    assert read.parameters.latency_budget_ms == timeout / 1000


@pytest.mark.parametrize("timeout", [2**64, 10**400])
def test_a_timeout_of_more_than_64_bits_is_refused(manifest: Manifest, timeout: int) -> None:
    head = request({"parameters": {"timeout": timeout}})
    with pytest.raises(BadParameter, match="timeout: must be a whole number of microseconds"):
        read_inference(head + bytes(SIZE), str(len(head)), manifest, MAX_ROWS)


@pytest.mark.parametrize("kind", [InferRequest, IndexRequest, ManageRequest])
@pytest.mark.parametrize("value", ["0", "null", '""', "[]", "{}", '{"a": 0}'])
def test_too_many_values_are_refused_by_counting_bytes(kind: type[BaseModel], value: str) -> None:
    values = [value] * 100_000
    for many in (f"[{','.join(values)}]", '{"a": ' + ',"a": '.join(values) + "}"):
        with pytest.raises(BadBody, match="more values than any request needs"):
            parse(kind, many.encode())


@pytest.mark.parametrize(
    "start",
    [
        b'{"id": "a", "id": "a", ',
        b'{"parameters": {"max_exit": 2, "max_exit": 3}, ',
        b'{"parameters": {"max_exit": 2, "max_e\\u0078it": 3}, ',
        b'{"outputs": [{"name": "label", "name": "exit"}], ',
        b'{"x": [[1, 2], [3, 4]], "x": [5e3, -1.5], ',
        b'{"x": [[1], "a"], "id": "a", "id": "a", ',
        b'{"[": 1, "x": [[[[[[1]], 2]]]], "[": [2], ',
    ],
)
def test_a_key_that_is_there_twice_is_refused(manifest: Manifest, start: bytes) -> None:
    head = start + request()[1:]
    with pytest.raises(BadBody, match="the JSON has a key twice"):
        read_inference(head + bytes(SIZE), str(len(head)), manifest, MAX_ROWS)


def test_the_same_key_in_two_objects_is_right(manifest: Manifest) -> None:
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in ("label", "exit")]
    head = request({"outputs": outputs})
    read = read_inference(head + bytes(SIZE), str(len(head)), manifest, MAX_ROWS)
    assert [wanted.name for wanted in read.outputs] == ["label", "exit"]


def test_keys_that_look_like_arrays_are_told_apart(manifest: Manifest) -> None:
    head = request({"[1]": 1, "[2]": 2, "id": "]"})
    assert read_inference(head + bytes(SIZE), str(len(head)), manifest, MAX_ROWS).id == "]"


@pytest.mark.parametrize("text", ["[", "[1,", '[\\"', "[]", '\\"['])
def test_brackets_in_a_string_are_read_once(text: str) -> None:
    body = '{"id": "%s", "ready": true}' % (text * 600_000)
    assert parse(IndexRequest, body.encode()).ready  # in quadratic time this takes hours


@pytest.mark.parametrize("data", [f"{'[' * 50}{'1,' * 9_000}", f"{'[' * 50}{'[1],' * 4_000}"])
def test_arrays_without_an_end_are_no_json(data: str) -> None:
    with pytest.raises(BadBody, match="EOF"):
        parse(IndexRequest, f'{{"data": {data}{" " * 2_000_000}'.encode())


def test_null_stands_for_what_is_left_out(manifest: Manifest) -> None:
    plain, named = request(), [{"name": name, "parameters": None} for name in OUTPUT_DATATYPES]
    said: list[dict[str, object]] = [
        {"id": None, "outputs": None, "parameters": None},
        {"outputs": named},
        {"outputs": []},
    ]
    for members in said:
        head = request(members)
        read = read_inference(head + bytes(SIZE), str(len(head)), manifest, MAX_ROWS)
        expected = read_inference(plain + bytes(SIZE), str(len(plain)), manifest, MAX_ROWS)
        assert (read.id, read.parameters, read.outputs) == (
            None,
            expected.parameters,
            expected.outputs,
        )


def test_mlservers_content_type_changes_nothing(manifest: Manifest) -> None:
    head = request({"parameters": {"content_type": "np", "headers": {}, "max_exit": 2}})
    read = read_inference(head + bytes(SIZE), str(len(head)), manifest, MAX_ROWS)
    assert read.parameters.max_exit == 2


def test_the_largest_batch_may_be_nested(manifest: Manifest) -> None:
    images = np.full((MAX_ROWS, 32, 32, 3), 7, np.uint8)
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(images.shape)}
    for data in (images.tolist(), images.ravel().tolist()):
        body = json.dumps({"inputs": [{**tensor, "data": data}]}).encode()
        read = read_inference(body, None, manifest, MAX_ROWS)
        np.testing.assert_array_equal(images_of(read), images)


def test_hostile_sizes_are_refused_in_little_time(manifest: Manifest) -> None:
    many = {str(number): None for number in range(300_000)}
    for body in (
        request({"parameters": many}),
        request({"outputs": [{"name": "label"}] * 300_000}),
        request({"inputs": [{}] * 300_000}),
        request({**many, "id": 3}),
        request({"inputs": [{"shape": ["x"] * 300_000}]}),
        request({"inputs": [{"data": [[]] * 1_000_000}]}),
    ):
        with pytest.raises((BadBody, BadParameter)) as refused:
            read_inference(body, None, manifest, MAX_ROWS)
        assert len(str(refused.value)) < 500
