"""Open Inference Protocol v2 over HTTP: from a request's bytes to rows, and from an answer back to bytes.

Sources: the protocol itself (github.com/kserve/open-inference-protocol, ``inference_rest.md``) and Triton's
``binary_tensor_data`` extension (triton-inference-server, ``docs/protocol/extension_binary_data.md``). All tensors
are little-endian and row-major. Everything about a request is checked here, before anything of it is queued, so
that a bad request can't spoil the batch that it would have been in.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson

from dlenv.errors import InvalidValue, RequestError, TooLarge
from dlenv_service.batcher import Answer, Array

__all__ = ["DTYPES", "InferRequest", "Signature", "check_rows", "decode", "encode", "load_json", "rows_from_list"]

DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype(np.uint8), "FP32": np.dtype("<f4")}  # of inputs
# JSON arrays nested deeper than this are refused. Triton's limit is 100; a tensor here has four dimensions.
MAX_DEPTH = 16
BINARY_HEADER = "Inference-Header-Content-Length"

if sys.byteorder != "little":  # the wire format is the machine's own everywhere that PyTorch runs
    raise ImportError("dlenv_service needs a little-endian machine")


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives."""

    model: str
    input: str
    datatype: str
    shape: tuple[int, ...]  # of one row
    outputs: tuple[str, str]  # names of probabilities and label
    max_rows: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's name for the input's datatype."""
        return DTYPES[self.datatype]

    @property
    def row_size(self) -> int:
        """Elements in one row."""
        return math.prod(self.shape)

    def describe(self) -> str:
        """The input's shape as text: ``[-1,1,28,28]``."""
        return _text((-1, *self.shape))


@dataclass(frozen=True)
class InferRequest:
    """A request, checked: ``rows`` is ``(n, *shape)``; ``outputs`` pairs names with "as binary"."""

    rows: Array
    outputs: tuple[tuple[str, bool], ...]
    id: str | None = None
    timeout_us: int | None = None


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
        raise RequestError(f"the body is a JSON {_json_type(document)}; send a JSON object")
    return document


def decode(body: bytes, header_length: str | None, signature: Signature) -> InferRequest:
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
            f"{BINARY_HEADER} {_short(header_length)} is not a whole number of bytes; send the JSON's length"
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
        raise RequestError(f"id must be a string, not a {_json_type(request_id)}")
    parameters = _parameters(document, "the request")
    rows = _input(document.get("inputs"), binary, signature)
    all_binary = _flag(parameters, "binary_data_output", "the request")
    timeout = parameters.get("timeout")
    if timeout is not None and (type(timeout) is not int or timeout <= 0):
        raise RequestError(f"parameter timeout is {_short(timeout)}; give a whole number of microseconds above 0")
    return InferRequest(rows, _outputs(document.get("outputs"), all_binary, signature), request_id, timeout)


def _input(inputs: object, binary: memoryview, signature: Signature) -> Array:
    if not isinstance(inputs, list) or not inputs:
        raise RequestError(f"inputs must be an array with one tensor, {signature.input!r}; got {_short(inputs)}")
    for entry in inputs:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise RequestError(f"each input must be an object with a name; got {_short(entry)}")
        if entry["name"] != signature.input:
            raise InvalidValue(
                f"input {_short(entry['name'])} is not an input of model {signature.model!r}; it takes "
                f"{signature.input!r}"
            )
    if len(inputs) > 1:
        raise RequestError(f"input {signature.input!r} is given {len(inputs)} times; give it once")
    tensor = inputs[0]
    count = _shape(tensor.get("shape"), signature)
    if tensor.get("datatype") != signature.datatype:
        raise InvalidValue(
            f"input {signature.input!r}: datatype {_short(tensor.get('datatype'))} is not what model "
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
            f"input {signature.input!r}: binary_data_size is {_short(size)}, but {len(binary)} bytes follow the JSON"
        )
    wanted = count * signature.row_size * signature.dtype.itemsize
    if size != wanted:
        raise RequestError(
            f"input {signature.input!r}: shape {_text((count, *signature.shape))} of {signature.datatype} is "
            f"{wanted} bytes, but {size} were sent"
        )
    rows = np.frombuffer(binary, signature.dtype).reshape(count, *signature.shape)
    return check_rows(rows, signature)


def _shape(shape: object, signature: Signature) -> int:
    """Check a shape and return its rows."""
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        raise RequestError(f"input {signature.input!r}: shape must be an array of whole numbers, not {_short(shape)}")
    if len(shape) != len(signature.shape) + 1 or tuple(shape[1:]) != signature.shape:
        raise InvalidValue(
            f"input {signature.input!r}: shape {_text(shape)} is not what model {signature.model!r} takes; "
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
    needed = f"shape {_text(shape)} needs {math.prod(shape)} elements, flat or nested"
    array = rows_from_list(data, signature, math.prod(shape), needed)
    if array.shape not in (shape, (math.prod(shape),)):
        raise RequestError(f"input {signature.input!r}: {needed}; data has {array.size}, in shape {_text(array.shape)}")
    return array.reshape(shape)


def rows_from_list(data: object, signature: Signature, most: int, needed: str) -> Array:
    """A nested list as an array of whatever shape and number type it has; ``needed`` says in words why ``most``.

    Raises:
        RequestError: not a list, ragged, too deep, not numbers, or more than ``most`` of them.
    """
    if not isinstance(data, list):
        raise RequestError(f"input {signature.input!r}: data must be an array, not a {_json_type(data)}")
    # Level by level, and NumPy sees nothing but numbers: it would take true for 1, and among a million numbers one
    # long string would make every element as long as itself, which is more memory than any machine has.
    elements: list[Any] = data
    shape = [len(data)]
    while True:
        if len(elements) > most:  # before the event loop spends any time on them
            raise RequestError(f"input {signature.input!r}: {needed}; data has more")
        kinds = set(map(type, elements))
        if kinds != {list}:
            break
        if len(shape) == MAX_DEPTH:
            raise RequestError(
                f"input {signature.input!r}: data is nested more than {MAX_DEPTH} deep; send it flat or as "
                f"{signature.describe()}"
            )
        lengths = set(map(len, elements))
        if len(lengths) > 1:
            raise _ragged(signature)
        shape.append(lengths.pop())
        elements = list(chain.from_iterable(elements))
    if list in kinds:
        raise _ragged(signature)
    if not kinds <= {int, float}:
        other = next(each for each in elements if type(each) not in (int, float))
        raise RequestError(f"input {signature.input!r}: data holds {_short(other)}; send numbers only")
    return np.array(elements).reshape(shape)


def _ragged(signature: Signature) -> RequestError:
    return RequestError(
        f"input {signature.input!r}: data is ragged; every row must have the same number of elements, "
        f"{signature.describe()} in all"
    )


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


def check_rows(rows: Array, signature: Signature) -> Array:
    """Check values and give the rows the model's datatype.

    Raises:
        InvalidValue: a number that the datatype doesn't hold, or not a finite one.
    """
    dtype = signature.dtype
    if dtype.kind == "u":
        if rows.dtype == dtype:
            return rows
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        bad = (rows < low) | (rows > high) | (rows != np.floor(rows))
        wanted = f"whole numbers from {low} to {high}"
        with np.errstate(invalid="ignore"):
            checked = rows.astype(dtype)
    else:
        with np.errstate(over="ignore"):
            checked = rows.astype(dtype, copy=False)
        finite = np.isfinite(checked)
        if finite.all():
            return checked
        bad, wanted = ~finite, "finite numbers"
    if bad.any():
        where = tuple(int(index) for index in np.argwhere(bad)[0])
        raise InvalidValue(
            f"input {signature.input!r}: element {_text(where)} is {rows[where]}; {signature.datatype} takes {wanted}"
        )
    return checked


def _outputs(outputs: object, all_binary: bool, signature: Signature) -> tuple[tuple[str, bool], ...]:
    if outputs is None or outputs == []:
        return tuple((name, all_binary) for name in signature.outputs)
    if not isinstance(outputs, list):
        raise RequestError(f"outputs must be an array, not a {_json_type(outputs)}")
    wanted: dict[str, bool] = {}
    for entry in outputs:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise RequestError(f"each output must be an object with a name; got {_short(entry)}")
        name = entry["name"]
        if name not in signature.outputs:
            raise InvalidValue(
                f"output {_short(name)} is not an output of model {signature.model!r}; it gives "
                + " and ".join(repr(output) for output in signature.outputs)
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
    outputs: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for name, as_binary in request.outputs:
        array, datatype = (answer.probabilities, "FP32") if name == signature.outputs[0] else (answer.labels, "INT64")
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": array.shape}
        if as_binary:
            binary.append(array.tobytes())
            output["parameters"] = {"binary_data_size": array.nbytes}
        else:
            output["data"] = np.ascontiguousarray(array).ravel()
        outputs.append(output)
    document: dict[str, Any] = {"model_name": signature.model, "model_version": version, "outputs": outputs}
    if request.id is not None:
        document["id"] = request.id
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
        raise RequestError(f"parameters of {owner} must be an object, not a {_json_type(parameters)}")
    return parameters


def _flag(parameters: dict[str, Any], name: str, owner: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise RequestError(f"parameter {name} of {owner} is {_short(value)}; give true or false")
    return value


def _text(shape: object) -> str:
    return "[" + ",".join(str(size) for size in shape) + "]"  # type: ignore[attr-defined]


def _short(value: object) -> str:
    """A value of the request for an error message: short, on one line, control characters escaped."""
    try:
        text = orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # it reads what is 1,024 levels deep, but writes 254
        return f"a deeply nested {_json_type(value)}"
    text = text if len(text) <= 60 else text[:57] + "..."
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _json_type(value: object) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
