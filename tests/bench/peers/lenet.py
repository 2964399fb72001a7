"""What every peer runs: the shipped `mnist-lenet`, eager PyTorch on one thread, at most 64 images at a time.

Raw pixels in, probabilities and labels out, the preprocessing of the model's manifest included; the same work as
dlenv's own engine does. How an answer becomes bytes is here too, so that all peers with a binary wire send the same.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch

from dlenv_models.repository import Repository

MODEL = "mnist-lenet"
IMAGE = 784  # bytes
MAX_BATCH = 64

Array = npt.NDArray[Any]


class Classifier:
    """The model and its preprocessing: ``(n * 784)`` bytes of pixels to ``(n, 10)`` float32 and ``(n,)`` int64."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        loaded = Repository().load(MODEL)
        preprocessing = loaded.manifest.preprocessing
        self.module = loaded.module
        self.scale = preprocessing.scale
        self.mean = torch.tensor(preprocessing.mean).reshape(-1, 1, 1)
        self.std = torch.tensor(preprocessing.std).reshape(-1, 1, 1)
        for size in (1, 1, MAX_BATCH, MAX_BATCH):
            self(bytes(size * IMAGE))

    def __call__(self, pixels: bytes) -> tuple[Array, Array]:
        rows = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).reshape(-1, 1, 28, 28)
        with torch.inference_mode():
            # Larger batches gain nothing on a CPU, and would leave its caches.
            parts = [self.forward(part) for part in torch.split(rows, MAX_BATCH)]
        if len(parts) == 1:
            return parts[0][0].numpy(), parts[0][1].numpy()
        probabilities, labels = zip(*parts, strict=True)
        return torch.cat(probabilities).numpy(), torch.cat(labels).numpy()

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = rows.to(torch.float32).mul_(self.scale).sub_(self.mean).div_(self.std)
        probabilities = torch.softmax(self.module(inputs), dim=1)
        return probabilities, probabilities.argmax(dim=1)


def answer_each(classify: Classifier, bodies: list[bytes]) -> list[bytes]:
    """One batch of requests of any number of images each, and the body of each answer."""
    probabilities, labels = classify(b"".join(bodies))
    answers, start = [], 0
    for body in bodies:
        end = start + len(body) // IMAGE
        answers.append(pack(probabilities[start:end], labels[start:end]))
        start = end
    return answers


def pack(probabilities: Array, labels: Array) -> bytes:
    """An answer as bytes: the probabilities as float32, then the labels as int64, both little-endian."""
    return probabilities.tobytes() + labels.tobytes()
