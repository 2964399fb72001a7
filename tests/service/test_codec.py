"""The Open Inference Protocol on bytes: every form of a request, every way to get one wrong, and back."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dlenv.errors import DlenvError, InvalidValue, RequestError, TooLarge
from dlenv_service.batcher import Answer
from dlenv_service.codec import BINARY_HEADER, decode, encode, load_json
from dlenv_service.tensors import Signature

OUTPUTS = ("probabilities", "label")
PIXELS = Signature("digits", "input", "UINT8", (1, 2, 3), OUTPUTS, max_rows=8)
POINTS = Signature("points", "input", "FP32", (2,), OUTPUTS, max_rows=8)


def document(signature: Signature, rows: np.ndarray, **more: Any) -> dict[str, Any]:
    tensor = {"name": "input", "shape": list(rows.shape), "datatype": signature.datatype, "data": rows.tolist()}
    return {"inputs": [tensor], **more}


def with_binary(signature: Signature, rows: np.ndarray, **more: Any) -> tuple[bytes, str]:
    tensor = {
        "name": "input",
        "shape": list(rows.shape),
        "datatype": signature.datatype,
        "parameters": {"binary_data_size": rows.nbytes},
    }
    head = orjson.dumps({"inputs": [tensor], **more})
    return head + rows.tobytes(), str(len(head))


def body(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture
def pixels() -> np.ndarray:
    return np.arange(12, dtype=np.uint8).reshape(2, 1, 2, 3)


# Requests


def test_nested_and_flat_json_give_the_same_rows(pixels: np.ndarray) -> None:
    nested = document(PIXELS, pixels)
    flat = document(PIXELS, pixels)
    flat["inputs"][0]["data"] = pixels.ravel().tolist()
    for each in (nested, flat):
        rows = decode(body(each), None, PIXELS).rows
        assert rows.dtype == np.uint8
        np.testing.assert_array_equal(rows, pixels)


def test_binary_input_is_not_copied(pixels: np.ndarray) -> None:
    content, length = with_binary(PIXELS, pixels)
    rows = decode(content, length, PIXELS).rows
    np.testing.assert_array_equal(rows, pixels)
    assert not rows.flags.owndata


@pytest.mark.parametrize("count", [1, 3])
def test_raw_binary_takes_any_whole_number_of_rows_and_answers_in_binary(count: int) -> None:
    rows = np.arange(2 * count, dtype="<f4").reshape(count, 2)
    request = decode(rows.tobytes(), "0", POINTS)
    np.testing.assert_array_equal(request.rows, rows)
    assert request.outputs == (("probabilities", True), ("label", True))


def test_whole_floats_are_uint8_values_and_integers_are_fp32_values() -> None:
    pixels = document(PIXELS, np.full((1, 1, 2, 3), 255.0))
    np.testing.assert_array_equal(decode(body(pixels), None, PIXELS).rows, np.full((1, 1, 2, 3), 255, np.uint8))
    rows = decode(body(document(POINTS, np.array([[3, -4]]))), None, POINTS).rows
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, [[3, -4]])


@pytest.mark.parametrize("length", [None, "json"])
def test_without_outputs_both_are_given(pixels: np.ndarray, length: str | None) -> None:
    for outputs in ({}, {"outputs": []}, {"outputs": None}):
        content = body(document(PIXELS, pixels, **outputs))
        request = decode(content, length and str(len(content)), PIXELS)
        assert request.outputs == (("probabilities", False), ("label", False))


def test_outputs_in_the_order_asked_for_each_in_its_own_form(pixels: np.ndarray) -> None:
    outputs = [{"name": "label", "parameters": {"binary_data": True}}, {"name": "probabilities"}]
    request = decode(body(document(PIXELS, pixels, outputs=outputs)), None, PIXELS)
    assert request.outputs == (("label", True), ("probabilities", False))


def test_binary_data_output_is_the_default_that_an_output_overrides(pixels: np.ndarray) -> None:
    asked = document(PIXELS, pixels, parameters={"binary_data_output": True})
    assert decode(body(asked), None, PIXELS).outputs == (("probabilities", True), ("label", True))
    asked["outputs"] = [{"name": "label", "parameters": {"binary_data": False}}, {"name": "probabilities"}]
    assert decode(body(asked), None, PIXELS).outputs == (("label", False), ("probabilities", True))


def test_id_and_timeout_are_read(pixels: np.ndarray) -> None:
    request = decode(body(document(PIXELS, pixels, id="a1", parameters={"timeout": 2500})), None, PIXELS)
    assert (request.id, request.timeout_us) == ("a1", 2500)
    request = decode(body(document(PIXELS, pixels)), None, PIXELS)
    assert (request.id, request.timeout_us) == (None, None)


# Answers

ANSWER = Answer(np.array([[0.25, 0.75], [1.0, 0.0]], np.float32), np.array([1, 0]))


def answer_to(request: dict[str, Any], answer: Answer = ANSWER) -> tuple[dict[str, str], dict[str, Any], bytes]:
    decoded = decode(body(request), None, PIXELS)
    headers, content = encode(decoded, answer, PIXELS, "3")
    named = {key.decode(): value.decode() for key, value in headers}
    length = int(named.get(BINARY_HEADER.lower(), len(content)))
    return named, json.loads(content[:length]), content[length:]


def test_a_json_answer_has_everything_the_protocol_asks_for(pixels: np.ndarray) -> None:
    headers, answer, rest = answer_to(document(PIXELS, pixels, id="é\u2028"))
    assert headers == {"content-type": "application/json"}
    assert rest == b""
    assert answer == {
        "model_name": "digits",
        "model_version": "3",
        "id": "é\u2028",
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [2, 2], "data": [0.25, 0.75, 1.0, 0.0]},
            {"name": "label", "datatype": "INT64", "shape": [2], "data": [1, 0]},
        ],
    }


def test_no_id_is_invented(pixels: np.ndarray) -> None:
    assert "id" not in answer_to(document(PIXELS, pixels))[1]


def test_a_binary_answer_holds_the_tensors_after_the_json(pixels: np.ndarray) -> None:
    headers, answer, rest = answer_to(document(PIXELS, pixels, parameters={"binary_data_output": True}))
    assert headers["content-type"] == "application/octet-stream"
    assert [output["parameters"]["binary_data_size"] for output in answer["outputs"]] == [16, 16]
    assert all("data" not in output for output in answer["outputs"])
    assert rest == ANSWER.probabilities.tobytes() + ANSWER.labels.astype("<i8").tobytes()


def test_a_mixed_answer_holds_only_the_binary_output_after_the_json(pixels: np.ndarray) -> None:
    outputs = [{"name": "probabilities"}, {"name": "label", "parameters": {"binary_data": True}}]
    _, answer, rest = answer_to(document(PIXELS, pixels, outputs=outputs))
    assert answer["outputs"][0]["data"] == [0.25, 0.75, 1.0, 0.0]
    assert np.frombuffer(rest, "<i8").tolist() == [1, 0]


def test_a_slice_of_a_batch_is_encoded_as_itself(pixels: np.ndarray) -> None:
    whole = Answer(np.arange(12, dtype=np.float32).reshape(6, 2), np.arange(6))
    part = Answer(whole.probabilities[2:4], whole.labels[2:4])
    _, answer, _ = answer_to(document(PIXELS, pixels), part)
    assert [output["data"] for output in answer["outputs"]] == [[4, 5, 6, 7], [2, 3]]


# Bad input


def changed(signature: Signature = PIXELS, rows: int = 1, **tensor: Any) -> bytes:
    """A good request of zeros with some keys of its tensor changed; None takes one away."""
    request = document(signature, np.zeros((rows, *signature.shape)))
    request["inputs"][0].update(tensor)
    request["inputs"][0] = {key: value for key, value in request["inputs"][0].items() if value is not ...}
    return body(request)


def good(**more: Any) -> bytes:
    return body(document(PIXELS, np.zeros((1, 1, 2, 3), np.uint8), **more))


ZEROS = [0] * 6
ROW = [[[0, 0, 0], [0, 0, 0]]]
DEEP = b'{"inputs": ' + b"[" * 300 + b"]" * 300 + b"}"
SIZED = {"binary_data_size": 6}

# what -> (body, header, signature, error, words that its text holds: the thing, the value, what to do)
BAD: dict[str, tuple[bytes, str | None, Signature, type[DlenvError], tuple[str, ...]]] = {
    "not JSON": (b"{]", None, PIXELS, RequestError, ("not valid JSON", "send a JSON object")),
    "no body": (b"", None, PIXELS, RequestError, ("not valid JSON", "send")),
    "not UTF-8": (b'{"id": "\xff"}', None, PIXELS, RequestError, ("not valid JSON", "send")),
    "NaN as a word": (b'{"inputs": [NaN]}', None, PIXELS, RequestError, ("not valid JSON",)),
    "JSON too deep": (b"[" * 5000, None, PIXELS, RequestError, ("not valid JSON",)),
    "a JSON array": (b"[1]", None, PIXELS, RequestError, ("array", "send a JSON object")),
    "a JSON null": (b"null", None, PIXELS, RequestError, ("null", "send a JSON object")),
    "no inputs": (b"{}", None, PIXELS, RequestError, ("inputs", "null", "array with one tensor")),
    "empty inputs": (b'{"inputs": []}', None, PIXELS, RequestError, ("inputs", "[]", "one tensor")),
    "inputs an object": (b'{"inputs": {"a": 1}}', None, PIXELS, RequestError, ("inputs", '{"a":1}')),
    "input a number": (b'{"inputs": [3]}', None, PIXELS, RequestError, ("each input", "3", "object with a name")),
    "inputs too deep to repeat": (DEEP, None, PIXELS, RequestError, ("each input", "deeply nested array")),
    "input without name": (changed(name=...), None, PIXELS, RequestError, ("name", '"shape"')),
    "unknown input": (changed(name="x"), None, PIXELS, InvalidValue, ('"x"', "digits", "'input'")),
    "input twice": (
        body({"inputs": document(PIXELS, np.zeros((1, 1, 2, 3)))["inputs"] * 2}),
        None,
        PIXELS,
        RequestError,
        ("'input'", "2 times", "once"),
    ),
    "unknown datatype": (changed(datatype="FP99"), None, PIXELS, InvalidValue, ('"FP99"', "digits", "send UINT8")),
    "wrong datatype": (changed(datatype="FP32"), None, PIXELS, InvalidValue, ('"FP32"', "digits", "send UINT8")),
    "datatype missing": (changed(datatype=...), None, PIXELS, InvalidValue, ("datatype null", "send UINT8")),
    "datatype an array": (changed(datatype=["UINT8"]), None, PIXELS, InvalidValue, ('["UINT8"]', "send UINT8")),
    "shape missing": (changed(shape=...), None, PIXELS, RequestError, ("shape", "null", "array of whole numbers")),
    "shape a string": (changed(shape="1,1,2,3"), None, PIXELS, RequestError, ('"1,1,2,3"', "array of whole")),
    "shape negative": (changed(shape=[-1, 1, 2, 3]), None, PIXELS, RequestError, ("[-1,1,2,3]", "whole numbers")),
    "shape fractional": (changed(shape=[1.0, 1, 2, 3]), None, PIXELS, RequestError, ("[1.0,1,2,3]", "whole numbers")),
    "shape boolean": (changed(shape=[True, 1, 2, 3]), None, PIXELS, RequestError, ("[true,1,2,3]", "whole numbers")),
    "shape huge": (changed(shape=[2**40, 1, 2, 3]), None, PIXELS, RequestError, (str(2**40), "whole numbers")),
    "wrong shape": (changed(shape=[1, 1, 3, 2]), None, PIXELS, InvalidValue, ("[1,1,3,2]", "digits", "[-1,1,2,3]")),
    "wrong rank": (changed(shape=[1, 6]), None, PIXELS, InvalidValue, ("[1,6]", "digits", "[-1,1,2,3]")),
    "rank zero": (changed(shape=[]), None, PIXELS, InvalidValue, ("[]", "digits", "[-1,1,2,3]")),
    "zero rows": (changed(shape=[0, 1, 2, 3], data=[]), None, PIXELS, InvalidValue, ("zero rows", "at least one")),
    "too many rows": (changed(rows=9), None, PIXELS, TooLarge, ("9 rows", "8", "send fewer")),
    "too many rows claimed": (changed(shape=[10**6, 1, 2, 3]), None, PIXELS, TooLarge, ("1000000 rows", "8")),
    "too few elements": (changed(data=[0] * 5), None, PIXELS, RequestError, ("[1,1,2,3]", "6", "data has 5")),
    "too many elements": (changed(data=[0] * 7), None, PIXELS, RequestError, ("[1,1,2,3]", "6", "data has more")),
    "a million elements": (changed(data=[0] * 10**6), None, PIXELS, RequestError, ("[1,1,2,3]", "6", "has more")),
    "no elements": (changed(data=[]), None, PIXELS, RequestError, ("[1,1,2,3]", "6", "data has 0")),
    "only empty rows": (changed(data=[[], []]), None, PIXELS, RequestError, ("data has 0", "[2,0]")),
    "another nesting": (changed(data=[[0, 0, 0], [0, 0, 0]]), None, PIXELS, RequestError, ("data has 6", "[2,3]")),
    "no data": (changed(data=...), None, PIXELS, RequestError, ("'input'", "neither data", "binary_data_size")),
    "data null": (changed(data=None), None, PIXELS, RequestError, ("data must be an array", "null")),
    "data a number": (changed(data=3), None, PIXELS, RequestError, ("data must be an array", "number")),
    "data a string": (changed(data="000000"), None, PIXELS, RequestError, ("data must be an array", "string")),
    "ragged": (
        changed(data=[[[0, 0, 0], [0, 0]]]),
        None,
        PIXELS,
        RequestError,
        ("ragged", "same number", "[-1,1,2,3]"),
    ),
    "numbers beside arrays": (changed(data=[0, [0], 0]), None, PIXELS, RequestError, ("ragged", "same number")),
    "too deep": (
        changed(data=json.loads("[" * 20 + "0" + "]" * 20)),
        None,
        PIXELS,
        RequestError,
        ("nested more than 16 deep", "send it flat", "[-1,1,2,3]"),
    ),
    "null element": (changed(data=[0, 0, None, 0, 0, 0]), None, PIXELS, RequestError, ("null", "numbers only")),
    "string element": (changed(data=[0, 0, "7", 0, 0, 0]), None, PIXELS, RequestError, ('"7"', "numbers only")),
    "boolean element": (changed(data=[0, 0, True, 0, 0, 0]), None, PIXELS, RequestError, ("true", "numbers only")),
    "object element": (changed(data=[0, 0, {"a": 1}, 0, 0, 0]), None, PIXELS, RequestError, ('{"a":1}', "numbers")),
    "nested boolean": (changed(data=[[[[0, 0, 0], [0, 0, True]]]]), None, PIXELS, RequestError, ("true", "numbers")),
    "one long string among numbers": (
        changed(data=["x" * 100_000, *range(5)]),
        None,
        PIXELS,
        RequestError,
        ('"xxx', "...", "numbers only"),
    ),
    "above UINT8": (changed(data=[0, 0, 0, 0, 256, 0]), None, PIXELS, InvalidValue, ("[0,0,1,1]", "256", "0 to 255")),
    "below UINT8": (changed(data=[-1, *ZEROS[1:]]), None, PIXELS, InvalidValue, ("[0,0,0,0]", "-1", "0 to 255")),
    "fraction": (changed(data=[0.5, *ZEROS[1:]]), None, PIXELS, InvalidValue, ("[0,0,0,0]", "0.5", "whole numbers")),
    "beyond 64 bits": (changed(data=[2**63, -1, *ZEROS[2:]]), None, PIXELS, InvalidValue, ("[0,0,0,0]", "9.22", "255")),
    "beyond any integer": (changed(data=[10**30, *ZEROS[1:]]), None, PIXELS, InvalidValue, ("1e+30", "0 to 255")),
    "beyond FP32": (changed(POINTS, data=[0, 1e39]), None, POINTS, InvalidValue, ("[0,1]", "1e+39", "finite numbers")),
    "binary NaN": (
        np.array([0, math.nan], "<f4").tobytes(),
        "0",
        POINTS,
        InvalidValue,
        ("'input'", "[0,1]", "nan", "finite numbers"),
    ),
    "binary infinity": (
        with_binary(POINTS, np.array([[0, 0], [-math.inf, 0]], np.float32))[0],
        with_binary(POINTS, np.array([[0, 0], [-math.inf, 0]], np.float32))[1],
        POINTS,
        InvalidValue,
        ("[1,0]", "-inf", "finite numbers"),
    ),
    "header beyond the body": (good(), "999999", PIXELS, RequestError, (BINARY_HEADER, "999999", "JSON part")),
    "header negative": (good(), "-1", PIXELS, RequestError, (BINARY_HEADER, '"-1"', "JSON's length")),
    "header not a number": (good(), "ten", PIXELS, RequestError, (BINARY_HEADER, '"ten"', "whole number")),
    "header empty": (good(), "", PIXELS, RequestError, (BINARY_HEADER, '""', "whole number")),
    "header in other digits": (good(), "\u0661", PIXELS, RequestError, (BINARY_HEADER, "whole number")),
    "header of 5,000 digits": (good(), "9" * 5000, PIXELS, RequestError, (BINARY_HEADER, "999...", "whole number")),
    "header inside the JSON": (good(), "10", PIXELS, RequestError, ("not valid JSON",)),
    "data and binary": (
        changed(parameters=SIZED) + bytes(6),
        str(len(changed(parameters=SIZED))),
        PIXELS,
        RequestError,
        ("data and binary_data_size", "one of them"),
    ),
    "bytes that nothing announces": (good() + b"xy", str(len(good())), PIXELS, RequestError, ("2 bytes", "leave")),
    "size not what follows": (
        changed(data=..., parameters=SIZED) + bytes(7),
        str(len(changed(data=..., parameters=SIZED))),
        PIXELS,
        RequestError,
        ("binary_data_size is 6", "7 bytes follow"),
    ),
    "size without bytes": (changed(data=..., parameters=SIZED), None, PIXELS, RequestError, ("6", "0 bytes follow")),
    "size a boolean": (
        changed(data=..., parameters={"binary_data_size": True}),
        None,
        PIXELS,
        RequestError,
        ("binary_data_size is true",),
    ),
    "size not the shape's": (
        changed(data=..., parameters={"binary_data_size": 5}) + bytes(5),
        str(len(changed(data=..., parameters={"binary_data_size": 5}))),
        PIXELS,
        RequestError,
        ("[1,1,2,3]", "6 bytes", "5 were sent"),
    ),
    "raw with half a row": (bytes(9), "0", PIXELS, RequestError, ("6 bytes", "9", "whole rows")),
    "raw and empty": (b"", "0", PIXELS, InvalidValue, ("zero rows", "at least one")),
    "raw with too many rows": (bytes(54), "0", PIXELS, TooLarge, ("9 rows", "8", "send fewer")),
    "id a number": (good(id=7), None, PIXELS, RequestError, ("id must be a string", "number")),
    "timeout zero": (good(parameters={"timeout": 0}), None, PIXELS, RequestError, ("timeout is 0", "microseconds")),
    "timeout a float": (good(parameters={"timeout": 1.5}), None, PIXELS, RequestError, ("timeout is 1.5", "whole")),
    "timeout a boolean": (good(parameters={"timeout": True}), None, PIXELS, RequestError, ("timeout is true", "whole")),
    "parameters an array": (good(parameters=[1]), None, PIXELS, RequestError, ("parameters", "object", "array")),
    "binary_data_output a number": (
        good(parameters={"binary_data_output": 1}),
        None,
        PIXELS,
        RequestError,
        ("binary_data_output", "1", "true or false"),
    ),
    "outputs an object": (good(outputs={}), None, PIXELS, RequestError, ("outputs must be an array", "object")),
    "output a string": (good(outputs=["label"]), None, PIXELS, RequestError, ('"label"', "object with a name")),
    "unknown output": (
        good(outputs=[{"name": "x"}]),
        None,
        PIXELS,
        InvalidValue,
        ('"x"', "'probabilities'", "'label'"),
    ),
    "output twice": (good(outputs=[{"name": "label"}] * 2), None, PIXELS, RequestError, ("'label'", "twice")),
    "binary_data a string": (
        good(outputs=[{"name": "label", "parameters": {"binary_data": "yes"}}]),
        None,
        PIXELS,
        RequestError,
        ("binary_data", '"yes"', "true or false"),
    ),
    "classification": (
        good(outputs=[{"name": "label", "parameters": {"classification": 3}}]),
        None,
        PIXELS,
        InvalidValue,
        ("'label'", "classification", "not offered", "probabilities"),
    ),
    "a name that draws on the terminal": (
        changed(name="\x1b[31m\u202e\x9b\n" + "y" * 10_000),
        None,
        PIXELS,
        InvalidValue,
        ("\\u001b", "\\u202e", "\\x9b", "\\n", "..."),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_one_sentence(case: str) -> None:
    content, length, signature, error, words = BAD[case]
    with pytest.raises(DlenvError) as refused:
        decode(content, length, signature)
    assert type(refused.value) is error
    text = str(refused.value)
    for word in words:
        assert word in text
    assert len(text) < 400
    assert all(char.isprintable() for char in text)


def test_the_statuses_of_bad_input() -> None:
    assert {kind: kind.status for kind in (RequestError, InvalidValue, TooLarge)} == {
        RequestError: 400,
        InvalidValue: 422,
        TooLarge: 413,
    }


def test_load_json_gives_the_object() -> None:
    assert load_json(b'{"a": [1]}') == {"a": [1]}


# Any input


@st.composite
def tensors(draw: st.DrawFn) -> tuple[Signature, np.ndarray]:
    shape = draw(arrays.array_shapes(min_dims=1, max_dims=3, max_side=4))
    datatype = draw(st.sampled_from(["UINT8", "FP32"]))
    signature = Signature("any", "input", datatype, shape, OUTPUTS, max_rows=4)
    elements = {} if datatype == "UINT8" else {"elements": st.floats(width=32, allow_nan=False, allow_infinity=False)}
    count = draw(st.integers(1, 4))
    return signature, draw(arrays.arrays(signature.dtype, (count, *shape), **elements))


@given(tensors(), st.sampled_from(["nested", "flat", "binary", "raw"]))
@settings(max_examples=150, deadline=None)
def test_rows_survive_every_form_of_a_request(given_rows: tuple[Signature, np.ndarray], form: str) -> None:
    signature, rows = given_rows
    if form == "binary":
        request = decode(*with_binary(signature, rows), signature)
    elif form == "raw":
        request = decode(rows.tobytes(), "0", signature)
    else:
        asked = document(signature, rows)
        if form == "flat":
            asked["inputs"][0]["data"] = rows.ravel().tolist()
        request = decode(body(asked), None, signature)
    assert request.rows.dtype == signature.dtype
    np.testing.assert_array_equal(request.rows, rows)


@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(2, 4)), elements=st.floats(0, 1, width=32)),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_an_answer_survives_both_forms(probabilities: np.ndarray, binary: bool) -> None:
    answer = Answer(probabilities, probabilities.argmax(1))
    rows = np.zeros((1, 2))
    asked = decode(body(document(POINTS, rows, parameters={"binary_data_output": binary})), None, POINTS)
    headers, content = encode(asked, answer, POINTS, "1")
    length = int(dict(headers).get(BINARY_HEADER.lower().encode(), len(content)))
    outputs = json.loads(content[:length])["outputs"]
    if binary:
        got = np.frombuffer(content[length : length + answer.probabilities.nbytes], "<f4").tolist()
    else:
        got = outputs[0]["data"]
    assert np.float32(got).tolist() == probabilities.ravel().tolist()
    assert outputs[0]["shape"] == list(probabilities.shape)


def refused_or_read(content: bytes, length: str | None) -> None:
    for signature in (PIXELS, POINTS):
        text, rows = "", np.zeros((1, *signature.shape), signature.dtype)
        try:
            rows = decode(content, length, signature).rows
        except DlenvError as error:  # and nothing else
            text = str(error)
        assert text.isprintable()
        assert rows.shape[1:] == signature.shape
        assert rows.dtype == signature.dtype
        assert np.isfinite(rows).all()


@given(st.binary(max_size=64), st.none() | st.text(max_size=4) | st.integers(-2, 70).map(str))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_are_refused_or_read(content: bytes, length: str | None) -> None:
    refused_or_read(content, length)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
TENSOR = st.fixed_dictionaries(
    {"name": st.just("input")},
    optional={
        "shape": st.sampled_from([[1, 2], [2, 2], [1, 1, 2, 3]]) | JSON,
        "datatype": st.sampled_from(["UINT8", "FP32"]) | JSON,
        "data": st.lists(st.integers(-1, 256) | st.floats(-1e40, 1e40), min_size=2, max_size=6) | JSON,
        "parameters": JSON | st.fixed_dictionaries({"binary_data_size": st.sampled_from([6, 8, 16]) | JSON}),
    },
)
REQUEST = st.fixed_dictionaries(
    {"inputs": st.lists(TENSOR, min_size=1, max_size=2) | JSON},
    optional={
        "id": JSON,
        "parameters": JSON | st.fixed_dictionaries({"timeout": JSON, "binary_data_output": JSON}),
        "outputs": JSON
        | st.lists(st.fixed_dictionaries({"name": st.sampled_from(OUTPUTS)}, optional={"parameters": JSON})),
    },
)


@given(REQUEST | JSON, st.binary(max_size=16), st.booleans())
@settings(max_examples=400, deadline=None)
def test_arbitrary_json_is_refused_or_read(value: object, rest: bytes, binary: bool) -> None:
    head = json.dumps(value).encode()
    refused_or_read(head + rest if binary else head, str(len(head)) if binary else None)
