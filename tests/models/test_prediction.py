from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from PIL import Image

from dlenv.errors import InvalidValue
from dlenv_models.data import load
from dlenv_models.manifest import Manifest
from dlenv_models.prediction import answer, image_row, rows_from_json
from dlenv_models.repository import Repository


@pytest.fixture(scope="module")
def spiral() -> Manifest:
    manifest = Repository().entry("spiral-mlp", 1).manifest
    assert manifest is not None
    return manifest


@pytest.fixture(scope="module")
def digits() -> Manifest:
    manifest = Repository().entry("mnist-lenet", 1).manifest
    assert manifest is not None
    return manifest


def test_rows_in_both_forms(spiral: Manifest) -> None:
    expected = torch.tensor([[0.5, -1.0], [2.0, 3.0]])
    assert torch.equal(rows_from_json({"inputs": [[0.5, -1], [2, 3.0]]}, spiral), expected)
    assert torch.equal(rows_from_json([[0.5, -1], [2, 3.0]], spiral), expected)


def test_pixels_are_uint8(digits: Manifest) -> None:
    rows = rows_from_json([[[[7] * 28] * 28]], digits)
    assert rows.dtype == torch.uint8
    assert rows.shape == (1, 1, 28, 28)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({}, "has the keys"),
        ({"inputs": [[1, 2]], "x": 1}, "has the keys"),
        ({"inputs": []}, "no rows"),
        ([], "no rows"),
        ("text", "no rows"),
        (None, "no rows"),
        ([[1, 2], [3]], r"inputs\[1\] is a list of 1, where a list of 2 belongs"),
        ([1, 2], r"inputs\[0\] is 1, where a list of 2 belongs"),
        ([[1, [2]]], r"inputs\[0\]\[1\] is \[2\], where a finite float32 number belongs"),
        ([[1, float("nan")]], r"inputs\[0\]\[1\] is nan"),
        ([[1, float("inf")]], r"inputs\[0\]\[1\] is inf"),
        ([[1, 1e39]], r"inputs\[0\]\[1\] is 1e\+39"),
        ([[1, 10**400]], r"inputs\[0\]\[1\] is 1000"),
        ([[1, True]], r"inputs\[0\]\[1\] is True"),
        ([[1, "2"]], r"inputs\[0\]\[1\] is '2'"),
        ([[1, None]], r"inputs\[0\]\[1\] is None"),
    ],
)
def test_rows_that_do_not_fit_are_named(spiral: Manifest, value: Any, reason: str) -> None:
    with pytest.raises(InvalidValue, match=reason):
        rows_from_json(value, spiral)


@pytest.mark.parametrize("pixel", [-1, 256, 0.5, True, "1"])
def test_pixels_that_do_not_fit_are_named(digits: Manifest, pixel: Any) -> None:
    with pytest.raises(InvalidValue, match=r"inputs\[0\]\[0\]\[0\]\[0\] is .*pixel value"):
        rows_from_json([[[[pixel] * 28] * 28]], digits)


def test_an_image_of_a_real_digit_is_recognised() -> None:
    model = Repository().load("mnist-lenet", 1)
    test = load("mnist5k").test
    for label in (0, 3, 7):
        pixels = test.inputs[test.labels == label][0, 0].numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        result = answer(model, image_row(buffer.getvalue(), model.manifest))
        (prediction,) = result.pop("predictions")
        assert result == {"model": "mnist-lenet", "version": 1}
        assert prediction["label"] == str(label)
        assert prediction["index"] == label
        assert prediction["probability"] == max(prediction["probabilities"].values()) > 0.9
        assert list(prediction["probabilities"]) == list("0123456789")
        assert sum(prediction["probabilities"].values()) == pytest.approx(1)


def test_a_model_of_rows_takes_no_image(spiral: Manifest) -> None:
    with pytest.raises(InvalidValue, match="spiral-mlp takes rows of 2 numbers, not images"):
        image_row(b"", spiral)
