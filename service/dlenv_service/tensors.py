"""What a model takes, and numbers from a request checked against it.

Everything is checked before anything is queued, so that a bad request can't spoil the batch that it would have been
in.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import orjson

from dlenv.errors import InvalidValue, RequestError, TooLarge
from dlenv_service.batcher import Array

__all__ = [
    "DTYPES",
    "Signature",
    "check_reconstructions",
    "check_rows",
    "json_type",
    "rows_from_list",
    "shape_text",
    "short",
]

DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype(np.uint8), "FP32": np.dtype("<f4")}  # of inputs
# JSON arrays nested deeper than this are refused. Triton's limit is 100; a tensor here has four dimensions.
MAX_DEPTH = 16

if sys.byteorder != "little":  # the wire format is the machine's own everywhere that PyTorch runs
    raise ImportError("dlenv_service needs a little-endian machine")


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives."""

    model: str
    input: str
    datatype: str
    shape: tuple[int, ...]  # of one row
    outputs: tuple[str, str]  # names of probabilities and label: what is given to a request that names none
    max_rows: int
    reconstruction: str = ""  # name of the output that is given only where a request names it; "": it has none
    max_reconstructions: int = 0  # rows in one request of which there may be reconstructions

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's name for the input's datatype."""
        return DTYPES[self.datatype]

    @cached_property
    def row_size(self) -> int:
        """Elements in one row."""
        return math.prod(self.shape)

    def describe(self) -> str:
        """The input's shape as text: ``[-1,1,28,28]``."""
        return shape_text((-1, *self.shape))


def check_reconstructions(rows: int, signature: Signature) -> None:
    """Refuse what can't be reconstructed.

    Raises:
        InvalidValue: the model gives no reconstructions.
        TooLarge: those of so many rows would be larger than a request's body may be.
    """
    if not signature.reconstruction:
        raise InvalidValue(f"model {signature.model!r} gives no reconstruction; leave reconstruct out")
    if rows > signature.max_reconstructions:
        raise TooLarge(
            f"the reconstructions of {rows} rows are too large for one answer, which may hold "
            f"{signature.max_reconstructions} of them; send fewer rows at once"
        )


def rows_from_list(data: object, signature: Signature, most: int, needed: str) -> Array:
    """A nested list as an array of whatever shape and number type it has; ``needed`` says in words why ``most``.

    Raises:
        RequestError: not a list, ragged, too deep, not numbers, or more than ``most`` of them.
    """
    if not isinstance(data, list):
        raise RequestError(f"input {signature.input!r}: data must be an array, not a {json_type(data)}")
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
        raise RequestError(f"input {signature.input!r}: data holds {short(other)}; send numbers only")
    return np.array(elements).reshape(shape)


def _ragged(signature: Signature) -> RequestError:
    return RequestError(
        f"input {signature.input!r}: data is ragged; every row must have the same number of elements, "
        f"{signature.describe()} in all"
    )


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
            f"input {signature.input!r}: element {shape_text(where)} is {rows[where]}; {signature.datatype} takes "
            f"{wanted}"
        )
    return checked


def shape_text(shape: Iterable[object]) -> str:
    """A shape for an error message: ``[-1,1,28,28]``."""
    return "[" + ",".join(str(size) for size in shape) + "]"


def short(value: object) -> str:
    """A value of the request for an error message: short, on one line, control characters escaped."""
    try:
        text = orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # it reads what is 1,024 levels deep, but writes 254
        return f"a deeply nested {json_type(value)}"
    text = text if len(text) <= 60 else text[:57] + "..."
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def json_type(value: object) -> str:
    """JSON's word for what a value is."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
