"""What every peer runs: the shipped `mnist-lenet` in dlenv's own engine, on one thread.

The same engine on both sides, so that what is compared is the way to it and back: eager PyTorch with the memory format,
the batch and the allocator that dlenv chooses, or ONNX Runtime where `LENET_ENGINE` says `onnx`. With `plain` it is
eager PyTorch without any of these choices, as most people run it. How an answer becomes bytes is here too, so that all
peers with a binary wire send the same.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dlenv_models.manifest import Manifest
from dlenv_models.repository import LoadedModel, Repository
from dlenv_service.allocator import keep_freed_memory
from dlenv_service.engine import CpuEngine, Engine, classify

MODEL = "mnist-lenet"
SHAPE = (1, 28, 28)
IMAGE = 784  # bytes
MAX_BATCH = 64

Array = npt.NDArray[Any]


class Classifier:
    """Pixels of n images, 784 bytes each, to ``(n, 10)`` float32 and ``(n,)`` int64."""

    def __init__(self, engine: str = "") -> None:
        engine = engine or os.environ.get("LENET_ENGINE", "eager")
        torch.set_num_threads(1)
        loaded = Repository().load(MODEL)
        self._engine = _onnx(loaded.manifest) if engine == "onnx" else _eager(loaded)
        if engine != "plain":
            keep_freed_memory()
            self._engine.warm_up()

    def __call__(self, pixels: bytes) -> tuple[Array, Array]:
        rows = np.frombuffer(pixels, np.uint8).reshape(-1, *SHAPE)
        size = self._engine.best_batch  # larger batches are slower on this machine
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        answers = [self._engine.run([part], len(part))[0] for part in parts]
        if len(answers) == 1:
            return answers[0].probabilities, answers[0].labels
        return (
            np.concatenate([answer.probabilities for answer in answers]),
            np.concatenate([answer.labels for answer in answers]),
        )


def _eager(loaded: LoadedModel) -> Engine:
    prepare = loaded.manifest.preprocessing
    model = classify(loaded.module, SHAPE, prepare.scale, prepare.mean, prepare.std)
    return CpuEngine(model, SHAPE, np.dtype(np.uint8), MAX_BATCH)


def _onnx(manifest: Manifest) -> Engine:
    from dlenv_service.onnx_engine import OnnxEngine
    from dlenv_service.onnx_export import Exporter, cached

    Exporter().make(None, [manifest])
    return OnnxEngine(cached(manifest), SHAPE, np.dtype(np.uint8), MAX_BATCH, threads=1)


def answer_each(classifier: Classifier, bodies: list[bytes]) -> list[bytes]:
    """One batch of requests of any number of images each, and the body of each answer."""
    probabilities, labels = classifier(b"".join(bodies))
    answers, start = [], 0
    for body in bodies:
        end = start + len(body) // IMAGE
        answers.append(pack(probabilities[start:end], labels[start:end]))
        start = end
    return answers


def pack(probabilities: Array, labels: Array) -> bytes:
    """An answer as bytes: the probabilities as float32, then the labels as int64, both little-endian."""
    return probabilities.tobytes() + labels.tobytes()
