"""Triton Inference Server as nvidia-pytriton starts it: dynamic batching without delay. `... PORT`

Raw uint8 in, binary tensors out (Triton's `binary_tensor_data`). The model runs in pytriton's Python callable.
"""

from __future__ import annotations

import sys

import numpy as np
from lenet import MAX_BATCH, MODEL, SHAPE, Array, Classifier
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


class Lenet:
    def __init__(self) -> None:
        self.classify = Classifier()

    @batch
    def __call__(self, input: Array) -> dict[str, Array]:  # noqa: A002 - the tensor's name
        probabilities, labels = self.classify(input.tobytes())
        return {"probabilities": probabilities, "label": labels[:, None]}


def main(port: int) -> None:
    config = TritonConfig(
        http_address="127.0.0.1", http_port=port, allow_grpc=False, allow_metrics=False, http_thread_count=2
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=MODEL,
            infer_func=Lenet(),
            inputs=[Tensor(name="input", dtype=np.uint8, shape=SHAPE)],
            outputs=[
                Tensor(name="probabilities", dtype=np.float32, shape=(10,)),
                Tensor(name="label", dtype=np.int64, shape=(1,)),
            ],
            config=ModelConfig(batching=True, max_batch_size=MAX_BATCH, batcher=DynamicBatcher()),
            strict=False,
        )
        triton.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
