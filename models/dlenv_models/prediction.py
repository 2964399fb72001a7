"""Answers in words: rows in, class names and probabilities out, just as ``POST /predict/<name>`` gives them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dlenv.errors import InvalidValue
from dlenv_models._check import show
from dlenv_models.evaluation import predict, reconstruct
from dlenv_models.images import prepare
from dlenv_models.manifest import Manifest
from dlenv_models.pretraining import Pretrained
from dlenv_models.repository import LoadedModel


def rows_from_json(value: object, manifest: Manifest) -> torch.Tensor:
    """The rows of ``{"inputs": [row, ...]}`` or of a bare ``[row, ...]``: uint8 or float32 (N, *row_shape).

    Raises ``InvalidValue`` naming the place and the value that doesn't fit.
    """
    if isinstance(value, dict):
        if set(value) != {"inputs"}:
            raise InvalidValue(f'the JSON object has the keys {show(sorted(value))}; it takes "inputs" only')
        value = value["inputs"]
    if not isinstance(value, list) or not value:
        shape = list(manifest.row_shape)
        raise InvalidValue(f'the JSON holds no rows; send {{"inputs": [row, ...]}} with rows of shape {shape}')
    pixels = len(manifest.row_shape) == 3
    numbers = list(_flatten(value, (len(value), *manifest.row_shape), "inputs", pixels))
    array = np.array(numbers, dtype=np.uint8 if pixels else np.float32)
    return torch.from_numpy(array.reshape(len(value), *manifest.row_shape))


def image_row(content: bytes, manifest: Manifest) -> torch.Tensor:
    """An image file as uint8 (1, C, H, W); raises ``InvalidValue`` where the model takes no images."""
    if len(manifest.row_shape) != 3:
        count = manifest.row_shape[0]
        raise InvalidValue(f"the model {manifest.name} takes rows of {count} numbers, not images; send JSON instead")
    return torch.from_numpy(prepare(content, *manifest.row_shape)).unsqueeze(0)


def answer(model: LoadedModel, rows: torch.Tensor, *, reconstructions: bool = False) -> dict[str, Any]:
    """The service's answer for these raw rows (N, *row_shape): model, version, and one prediction for each row.

    ``reconstructions``: with what the model makes of each row, [C][H][W] from 0 to 255; raises ``InvalidValue`` where
    it makes nothing of them.
    """
    manifest = model.manifest
    if reconstructions and not isinstance(model.module, Pretrained):
        raise InvalidValue(f"model {manifest.name!r} gives no reconstruction; leave reconstruct out")
    probabilities = predict(model.module, manifest.preprocessing, rows).softmax(dim=1)
    predictions = []
    for row in probabilities.tolist():
        index = max(range(len(row)), key=row.__getitem__)
        predictions.append(
            {
                "label": manifest.classes[index],
                "index": index,
                "probability": row[index],
                "probabilities": dict(zip(manifest.classes, row, strict=True)),
            }
        )
    if reconstructions:
        assert isinstance(model.module, Pretrained)
        made = reconstruct(model.module, manifest.preprocessing, rows)
        for prediction, row in zip(predictions, made.tolist(), strict=True):
            prediction["reconstruction"] = row
    return {"model": manifest.name, "version": manifest.version, "predictions": predictions}


def _flatten(value: object, shape: tuple[int, ...], where: str, pixels: bool) -> Iterator[float]:
    if not shape:
        yield _number(value, where, pixels)
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        what = f"a list of {len(value)}" if isinstance(value, list) else show(value)
        raise InvalidValue(f"{where} is {what}, where a list of {shape[0]} belongs")
    for i, item in enumerate(value):
        yield from _flatten(item, shape[1:], f"{where}[{i}]", pixels)


def _number(value: object, where: str, pixels: bool) -> float:
    right = isinstance(value, int if pixels else int | float) and not isinstance(value, bool)
    if pixels and not (right and 0 <= value <= 255):  # type: ignore[operator]  # right: it is a number
        raise InvalidValue(f"{where} is {show(value)}, where a pixel value (whole number, 0 to 255) belongs")
    if not (right and abs(value) <= float(np.finfo(np.float32).max)):  # type: ignore[arg-type]  # as above; false for NaN
        raise InvalidValue(f"{where} is {show(value)}, where a finite float32 number belongs")
    return value  # type: ignore[return-value]  # as above
