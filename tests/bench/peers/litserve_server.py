"""LitServe: one API process, one worker, batches of up to 64. `... PORT`

JSON with base64, as LitServe's own benchmarks send images: its request is JSON or a form. `batch_timeout=0` takes
what waits at once. `fast_queue` is left out: in 0.2.19 it changes nothing (Lightning-AI/LitServe#751).
"""

from __future__ import annotations

import base64
import sys

import litserve
from lenet import IMAGE, MAX_BATCH, Classifier


class Lenet(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.classify = Classifier()

    def decode_request(self, request: dict[str, str]) -> bytes:
        return base64.b64decode(request["images"])

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, inputs: list[bytes]) -> list[tuple[list[int], list[list[float]]]]:
        probabilities, labels = self.classify(b"".join(inputs))
        answers, start = [], 0
        for images in inputs:
            end = start + len(images) // IMAGE
            answers.append((labels[start:end].tolist(), probabilities[start:end].tolist()))
            start = end
        return answers

    def unbatch(self, output: list[tuple[list[int], list[list[float]]]]) -> list[tuple[list[int], list[list[float]]]]:
        return output

    def encode_response(self, output: tuple[list[int], list[list[float]]]) -> dict[str, object]:
        return {"label": output[0], "probabilities": output[1]}


if __name__ == "__main__":
    api = Lenet(max_batch_size=MAX_BATCH, batch_timeout=0)
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1, timeout=30)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="warning"
    )
