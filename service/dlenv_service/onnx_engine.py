"""ONNX Runtime on the CPU, and whether it says the same as PyTorch.

One call runs the whole model without the interpreter: small batches take a fifth of the time that eager PyTorch
needs, and the event loop goes on meanwhile (figures in tests/bench/RESULTS.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dlenv_service.batcher import Answer, Array
from dlenv_service.engine import HostEngine

__all__ = ["OnnxEngine", "difference", "sample"]

# How far a probability may be from eager PyTorch's, both in float32: sums in another order.
TOLERANCE = 1e-5
SAMPLE_ROWS = 8


class OnnxEngine(HostEngine):
    """A model from an ONNX file: rows in; probabilities and labels out."""

    name = "onnxruntime"

    def __init__(
        self, file: Path, shape: Sequence[int], dtype: np.dtype[np.generic], max_batch: int, threads: int
    ) -> None:
        import onnxruntime

        super().__init__(shape, dtype, max_batch)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; warnings are about its own optimisations
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self.memory_bytes = file.stat().st_size

    def infer(self, count: int) -> Sequence[Array]:
        """Probabilities and labels of the first rows."""
        outputs: Sequence[Array] = self._session.run(None, {self._input: self._staging[:count]})
        return outputs


def sample(shape: Sequence[int], dtype: np.dtype[np.generic], rows: int) -> Array:
    """Rows to compare engines with, always the same: pixels of every value, or numbers around zero."""
    random = np.random.default_rng(0)
    size = (min(SAMPLE_ROWS, rows), *shape)
    if dtype.kind == "u":
        return random.integers(0, 256, size).astype(dtype)
    return random.standard_normal(size).astype(dtype)


def difference(answer: Answer, wanted: Answer) -> str | None:
    """In words, how an answer is not the one that was wanted; None where it is."""
    far = np.abs(answer.probabilities - wanted.probabilities).max()
    if not far <= TOLERANCE:  # nor where it is no number
        return f"a probability is {far:.1e} off"
    # A label may differ where two classes are as likely as each other, within the tolerance.
    chosen = np.take_along_axis(wanted.probabilities, answer.labels[:, np.newaxis], 1)[:, 0]
    if (wanted.probabilities.max(1) - chosen > 2 * TOLERANCE).any():
        return "a label is another one"
    return None
