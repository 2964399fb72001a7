"""Open Inference Protocol v2 over HTTP: from a request's bytes to rows, and from an answer back to bytes.

Sources: the protocol itself (github.com/kserve/open-inference-protocol, ``inference_rest.md``) and Triton's
``binary_tensor_data`` extension (triton-inference-server, ``docs/protocol/extension_binary_data.md``). All tensors
are little-endian and row-major. Everything about a request is checked here, before anything of it is queued, so
that a bad request can't spoil the batch that it would have been in.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import orjson

from dlenv.errors import InvalidValue, RequestError, TooLarge
from dlenv_service.batcher import Answer, Array
from dlenv_service.tensors import (
    Signature,
    check_reconstructions,
    check_rows,
    json_type,
    rows_from_list,
    shape_text,
    short,
)

__all__ = ["BINARY_HEADER", "InferRequest", "decode", "encode", "load_json"]

BINARY_HEADER = "Inference-Header-Content-Length"


class InferRequest(NamedTuple):
    """A request, checked: ``rows`` is ``(n, *shape)``; ``outputs`` pairs names with "as binary"."""

    rows: Array
    outputs: tuple[tuple[str, bool], ...]
    id: str | None = None
    timeout_us: int | None = None
    reconstruct: bool = False  # the reconstruction is among the outputs


def load_json(body: bytes | memoryview) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        RequestError: not JSON, or not an object.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the body is not valid JSON ({error}); send a JSON object") from None
    if not isinstance(document, dict):
        raise RequestError(f"the body is a JSON {json_type(document)}; send a JSON object")
    return document


def decode(body: bytes | memoryview, header_length: str | None, signature: Signature) -> InferRequest:
    """Read an inference request.

    Args:
        body: the whole body.
        header_length: the header ``Inference-Header-Content-Length``; None where the request has none.
        signature: what the model takes.

    Raises:
        RequestError: the request can't be read: what it says of itself doesn't hold together.
        InvalidValue: it can be read, but is not what this model takes.
        TooLarge: more rows than one request may have.
    """
    if header_length is None:
        return _request(load_json(body), memoryview(b""), signature)
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) <= 18):
        raise RequestError(
            f"{BINARY_HEADER} {short(header_length)} is not a whole number of bytes; send the JSON's length"
        )
    length = int(header_length)
    if length > len(body):
        raise RequestError(
            f"{BINARY_HEADER} is {length}, but the body has {len(body)} bytes; send the length of the JSON part"
        )
    view = memoryview(body)
    if length == 0:
        return InferRequest(_raw(view, signature), tuple((name, True) for name in signature.outputs))
    return _request(load_json(view[:length]), view[length:], signature)


def _request(document: dict[str, Any], binary: memoryview, signature: Signature) -> InferRequest:
    request_id = document.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise RequestError(f"id must be a string, not a {json_type(request_id)}")
    parameters = _parameters(document, "the request")
    rows = _input(document.get("inputs"), binary, signature)
    all_binary = _flag(parameters, "binary_data_output", "the request")
    timeout = parameters.get("timeout")
    if timeout is not None and (type(timeout) is not int or timeout <= 0):
        raise RequestError(f"parameter timeout is {short(timeout)}; give a whole number of microseconds above 0")
    outputs = _outputs(document.get("outputs"), all_binary, signature)
    reconstruct = bool(signature.reconstruction) and any(name == signature.reconstruction for name, _ in outputs)
    if reconstruct:
        check_reconstructions(len(rows), signature)
    return InferRequest(rows, outputs, request_id, timeout, reconstruct)


def _input(inputs: object, binary: memoryview, signature: Signature) -> Array:
    if not isinstance(inputs, list) or not inputs:
        raise RequestError(f"inputs must be an array with one tensor, {signature.input!r}; got {short(inputs)}")
    for entry in inputs:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise RequestError(f"each input must be an object with a name; got {short(entry)}")
        if entry["name"] != signature.input:
            raise InvalidValue(
                f"input {short(entry['name'])} is not an input of model {signature.model!r}; it takes "
                f"{signature.input!r}"
            )
    if len(inputs) > 1:
        raise RequestError(f"input {signature.input!r} is given {len(inputs)} times; give it once")
    tensor = inputs[0]
    count = _shape(tensor.get("shape"), signature)
    if tensor.get("datatype") != signature.datatype:
        raise InvalidValue(
            f"input {signature.input!r}: datatype {short(tensor.get('datatype'))} is not what model "
            f"{signature.model!r} takes; send {signature.datatype}"
        )
    size = _parameters(tensor, f"input {signature.input!r}").get("binary_data_size")
    if size is None:
        if len(binary):
            raise RequestError(
                f"{len(binary)} bytes follow the JSON, but input {signature.input!r} has no parameter "
                "binary_data_size; give it, or leave the bytes out"
            )
        if "data" not in tensor:
            raise RequestError(f"input {signature.input!r} has neither data nor the parameter binary_data_size")
        return check_rows(_elements(tensor["data"], count, signature), signature)
    if "data" in tensor:
        raise RequestError(f"input {signature.input!r} has data and binary_data_size; give one of them")
    if type(size) is not int or size != len(binary):
        raise RequestError(
            f"input {signature.input!r}: binary_data_size is {short(size)}, but {len(binary)} bytes follow the JSON"
        )
    wanted = count * signature.row_size * signature.dtype.itemsize
    if size != wanted:
        raise RequestError(
            f"input {signature.input!r}: shape {shape_text((count, *signature.shape))} of {signature.datatype} is "
            f"{wanted} bytes, but {size} were sent"
        )
    rows = np.frombuffer(binary, signature.dtype).reshape(count, *signature.shape)
    return check_rows(rows, signature)


def _shape(shape: object, signature: Signature) -> int:
    """Check a shape and return its rows."""
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        raise RequestError(f"input {signature.input!r}: shape must be an array of whole numbers, not {short(shape)}")
    if len(shape) != len(signature.shape) + 1 or tuple(shape[1:]) != signature.shape:
        raise InvalidValue(
            f"input {signature.input!r}: shape {shape_text(shape)} is not what model {signature.model!r} takes; "
            f"send {signature.describe()}, where -1 is the number of rows"
        )
    rows = int(shape[0])
    _check_count(rows, signature)
    return rows


def _check_count(rows: int, signature: Signature) -> None:
    if rows == 0:
        raise InvalidValue(f"input {signature.input!r} has zero rows; send at least one")
    if rows > signature.max_rows:
        raise TooLarge(
            f"input {signature.input!r} has {rows} rows and one request may have {signature.max_rows}; send fewer"
        )


def _elements(data: object, rows: int, signature: Signature) -> Array:
    """JSON data, nested or flat, as ``(rows, *shape)`` numbers of whatever type NumPy gives them."""
    shape = (rows, *signature.shape)
    needed = f"shape {shape_text(shape)} needs {math.prod(shape)} elements, flat or nested"
    array = rows_from_list(data, signature, math.prod(shape), needed)
    if array.shape not in (shape, (math.prod(shape),)):
        raise RequestError(
            f"input {signature.input!r}: {needed}; data has {array.size}, in shape {shape_text(array.shape)}"
        )
    return array.reshape(shape)


def _raw(view: memoryview, signature: Signature) -> Array:
    """A body that is nothing but the tensor: any whole number of rows (Triton takes exactly one)."""
    row = signature.row_size * signature.dtype.itemsize
    count, rest = divmod(len(view), row)
    if rest:
        raise RequestError(
            f"a row of input {signature.input!r} is {row} bytes, but the body has {len(view)}; send whole rows of "
            f"{signature.datatype} {signature.describe()}"
        )
    _check_count(count, signature)
    return check_rows(np.frombuffer(view, signature.dtype).reshape(count, *signature.shape), signature)


def _outputs(outputs: object, all_binary: bool, signature: Signature) -> tuple[tuple[str, bool], ...]:
    if outputs is None or outputs == []:
        return tuple((name, all_binary) for name in signature.outputs)
    if not isinstance(outputs, list):
        raise RequestError(f"outputs must be an array, not a {json_type(outputs)}")
    wanted: dict[str, bool] = {}
    for entry in outputs:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise RequestError(f"each output must be an object with a name; got {short(entry)}")
        name = entry["name"]
        if name not in signature.outputs and (not name or name != signature.reconstruction):
            given = [*signature.outputs, *([signature.reconstruction] if signature.reconstruction else [])]
            raise InvalidValue(
                f"output {short(name)} is not an output of model {signature.model!r}; it gives "
                + " and ".join(repr(output) for output in given)
            )
        if name in wanted:
            raise RequestError(f"output {name!r} is asked for twice")
        parameters = _parameters(entry, f"output {name!r}")
        if parameters.get("classification"):
            raise InvalidValue(
                f"output {name!r}: the classification extension is not offered; read label and probabilities"
            )
        binary = _flag(parameters, "binary_data", f"output {name!r}")
        wanted[name] = binary if "binary_data" in parameters else all_binary
    return tuple(wanted.items())


def encode(
    request: InferRequest, answer: Answer, signature: Signature, version: str
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """An answer as response headers and body."""
    key = (signature.model, version, signature.outputs, request.outputs, answer.probabilities.shape, signature.shape)
    if request.id is None and all(as_binary for _, as_binary in request.outputs):
        headers, description = _description(*key)
        return headers, b"".join(
            (description, *(_array(name, answer, signature).tobytes() for name, _ in request.outputs))
        )
    document = _document(*key)
    if request.id is not None:
        document["id"] = request.id
    binary: list[bytes] = []
    for (name, as_binary), output in zip(request.outputs, document["outputs"], strict=True):
        array = _array(name, answer, signature)
        if as_binary:
            binary.append(array.tobytes())
        else:
            output["data"] = np.ascontiguousarray(array).ravel()
    return _with_binary(document, binary)


# A client asks for the same outputs again and again, with a few different numbers of rows.
@lru_cache(maxsize=1024)
def _description(*key: Any) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The headers and the JSON of an answer whose tensors all follow it as bytes."""
    return _with_binary(_document(*key), [b""])


def _document(
    model: str,
    version: str,
    names: tuple[str, str],
    outputs: tuple[tuple[str, bool], ...],
    sizes: tuple[int, int],
    row: tuple[int, ...],
) -> dict[str, Any]:
    rows, classes = sizes
    described: list[dict[str, Any]] = []
    for name, as_binary in outputs:
        if name == names[1]:
            shape, datatype, size = [rows], "INT64", 8
        else:
            shape, datatype, size = [rows, classes] if name == names[0] else [rows, *row], "FP32", 4
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if as_binary:
            output["parameters"] = {"binary_data_size": math.prod(shape) * size}
        described.append(output)
    return {"model_name": model, "model_version": version, "outputs": described}


def _array(name: str, answer: Answer, signature: Signature) -> Array:
    if name == signature.outputs[0]:
        return answer.probabilities
    if name == signature.outputs[1]:
        return answer.labels
    assert answer.reconstructions is not None
    return answer.reconstructions


def _with_binary(document: dict[str, Any], binary: list[bytes]) -> tuple[list[tuple[bytes, bytes]], bytes]:
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary:
        return [(b"content-type", b"application/json")], body
    headers = [
        (b"content-type", b"application/octet-stream"),
        (BINARY_HEADER.lower().encode(), str(len(body)).encode()),
    ]
    return headers, b"".join((body, *binary))


def _parameters(document: dict[str, Any], owner: str) -> dict[str, Any]:
    parameters = document.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise RequestError(f"parameters of {owner} must be an object, not a {json_type(parameters)}")
    return parameters


def _flag(parameters: dict[str, Any], name: str, owner: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise RequestError(f"parameter {name} of {owner} is {short(value)}; give true or false")
    return value
