"""Triton Inference Server as nvidia-pytriton starts it: dynamic batching without delay. `... PORT [eager|onnx]`

Raw uint8 in, binary tensors out (Triton's `binary_tensor_data`). The inference callable is Python in either case, with
eager PyTorch or with ONNX Runtime (one thread) in it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from lenet import MAX_BATCH, MODEL, Array, Classifier
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


class Eager:
    def __init__(self) -> None:
        self.classify = Classifier()

    @batch
    def __call__(self, input: Array) -> dict[str, Array]:  # noqa: A002 - the tensor's name
        probabilities, labels = self.classify(input.tobytes())
        return {"probabilities": probabilities, "label": labels[:, None]}


class Onnx:
    def __init__(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        with TemporaryDirectory() as scratch:
            path = Path(scratch) / "model.onnx"
            example = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
            sizes = {"rows": {0: torch.export.Dim("n", min=1, max=MAX_BATCH)}}
            torch.onnx.export(
                Classifier().model,
                (example,),
                path,
                dynamo=True,
                dynamic_shapes=sizes,
                input_names=["input"],
                output_names=["probabilities", "label"],
                verbose=False,
            )
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    @batch
    def __call__(self, input: Array) -> dict[str, Array]:  # noqa: A002 - the tensor's name
        probabilities, labels = self.session.run(None, {"input": input})
        return {"probabilities": probabilities, "label": labels[:, None]}


def main(port: int, engine: str) -> None:
    config = TritonConfig(
        http_address="127.0.0.1", http_port=port, allow_grpc=False, allow_metrics=False, http_thread_count=2
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=MODEL,
            infer_func=Onnx() if engine == "onnx" else Eager(),
            inputs=[Tensor(name="input", dtype=np.uint8, shape=(1, 28, 28))],
            outputs=[
                Tensor(name="probabilities", dtype=np.float32, shape=(10,)),
                Tensor(name="label", dtype=np.int64, shape=(1,)),
            ],
            config=ModelConfig(batching=True, max_batch_size=MAX_BATCH, batcher=DynamicBatcher()),
            strict=False,
        )
        triton.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "eager")
