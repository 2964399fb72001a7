"""BentoML: one worker, adaptive batching of up to 64. `bentoml serve bentoml_server:Lenet --port PORT`

JSON with base64: its other wire for an image, a list of 784 numbers, costs more to parse, and its binary one is
pickle. The batch dimension is the list of images.
"""

from __future__ import annotations

import base64

import bentoml
from lenet import MAX_BATCH, Classifier


@bentoml.service(
    workers=1, threads=1, traffic={"timeout": 30}, metrics={"enabled": False}, logging={"access": {"enabled": False}}
)
class Lenet:
    def __init__(self) -> None:
        self.classify = Classifier()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=1000)
    def predict(self, images: list[str]) -> list[tuple[int, list[float]]]:
        probabilities, labels = self.classify(b"".join(map(base64.b64decode, images)))
        return list(zip(labels.tolist(), probabilities.tolist(), strict=True))
