"""Runs batches of one model on the CPU or on a GPU.

Rows arrive in the model's input type (uint8 pixels, say) and are normalised on the device: a quarter of the bytes to
move, and no work on the event loop. Softmax and argmax run there too, so that only the small answer comes back.

On a GPU small models spend their time launching kernels, so the whole of it (normalise, model, softmax, argmax) is
captured once for each bucket of batch sizes as one CUDA graph, and a batch is padded up to its bucket.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import nn

from dlenv.errors import StartError
from dlenv_models.pretraining import Pretrained
from dlenv_service.batcher import Answer, Array
from dlenv_service.device import Runner, Timing

__all__ = ["CpuEngine", "CudaEngine", "Engine", "HostEngine", "buckets", "classify", "pick_device", "reconstruct"]

# At warm-up the fastest of some runs of a size counts: others are slowed by what else the machine does.
TRIALS = 4
# A batch that takes longer is not tried in a larger size: it would gain nothing, and all would wait for it.
LONGEST_S = 0.05
# A size this near to the fastest is as good, and the larger one hands fewer batches to and fro.
NEARLY = 0.9
# Rows with which the memory formats are compared, where they take no longer than that: one row shows less of it.
COMPARED = 8


class Engine(Runner, Protocol):
    """A :class:`dlenv_service.device.Runner` that has to be warmed up first."""

    name: str  # of what runs the model
    memory_bytes: int
    best_batch: int  # rows in one batch that give the most rows a second; known once it is warm

    def warm_up(self) -> None:
        """Run every size once, so that no request pays for a first run."""
        ...


def pick_device(name: str) -> torch.device:
    """The device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        StartError: ``cuda`` was asked for and PyTorch can't use a GPU here.
    """
    if name == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if name == "cuda":
        why = "this PyTorch build has no CUDA" if torch.version.cuda is None else "PyTorch finds no usable NVIDIA GPU"
        raise StartError(f"--device cuda: {why}; use --device auto, or repair the installation")
    return torch.device("cpu")


def buckets(max_batch: int) -> list[int]:
    """The batch sizes that are prepared: powers of two, and ``max_batch`` itself.

    >>> buckets(48)
    [1, 2, 4, 8, 16, 32, 48]
    """
    sizes = [1]
    while sizes[-1] * 2 < max_batch:
        sizes.append(sizes[-1] * 2)
    return [*sizes, max_batch] if max_batch > 1 else sizes


class classify(nn.Module):  # noqa: N801 - read as a verb: classify(model)(rows)
    """From raw rows to probabilities and labels, all on the device.

    ``forward`` takes ``(n, *shape)`` uint8 or float32 and gives ``(n, classes)`` float32 and ``(n,)`` int64.
    ``scale``, ``mean`` and ``std`` are the manifest's: the model sees ``(rows * scale - mean) / std``, with one mean
    and std per channel (the first dimension of ``shape``).
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, model: nn.Module, shape: Sequence[int], scale: float, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.model = model
        self.scale = scale
        channels = (-1, *[1] * (len(shape) - 1))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(channels))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(channels))

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Classify ``(n, *shape)`` rows."""
        return self._classified(self._prepared(rows))

    def _prepared(self, rows: torch.Tensor) -> torch.Tensor:
        inputs = rows.to(torch.float32).mul_(self.scale) if rows.dtype == torch.uint8 else rows * self.scale
        return inputs.sub_(self.mean).div_(self.std)

    def _classified(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        probabilities = torch.softmax(self.model(inputs), dim=1)
        return probabilities, probabilities.argmax(dim=1)


class reconstruct(classify):  # noqa: N801 - as above
    """From raw rows to probabilities, labels, and what the model makes of the rows: ``(n, *shape)`` float32.

    The last is in the units of the rows (pixels: 0 to 255), so that it can be compared with what was sent.
    """

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]  # one output more
        """Classify and reconstruct ``(n, *shape)`` rows."""
        assert isinstance(self.model, Pretrained)
        inputs = self._prepared(rows)
        made = self.model.reconstruct(inputs).mul(self.std).add_(self.mean).div_(self.scale)
        return *self._classified(inputs), made


class HostEngine(ABC):
    """What runs on the CPU: rows are gathered in one place, and the batch that is fastest is found out."""

    def __init__(self, shape: Sequence[int], dtype: np.dtype[np.generic], max_batch: int) -> None:
        self._staging = np.zeros((max_batch, *shape), dtype)
        self.best_batch = max_batch

    @abstractmethod
    def infer(self, count: int) -> Sequence[Array]:
        """What the model gives for the first ``count`` rows that were gathered, in arrays of their own."""

    def warm_up(self) -> None:
        """Run every size that will be used, and find out which batch is the fastest.

        More rows share the cost of a call until what the layers pass on no longer fits into the core's cache, so that
        the largest batch is not the fastest (tests/bench/RESULTS.md has figures).
        """
        speeds: dict[int, float] = {}
        for size in buckets(len(self._staging)):
            seconds = self.seconds(size)
            speeds[size] = size / seconds
            if seconds > LONGEST_S:
                break
        self.best_batch = max(size for size, speed in speeds.items() if speed >= NEARLY * max(speeds.values()))

    def speed(self) -> float:
        """Rows a second in the batches that are the fastest, measured now."""
        return self.best_batch / self.seconds(self.best_batch)

    def seconds(self, size: int) -> float:
        """What a batch takes; the first run of a size also allocates and picks kernels, which others pay no more."""
        fastest = float("inf")
        for _ in range(1 + TRIALS):
            began = time.perf_counter()
            self.infer(size)
            fastest = min(fastest, time.perf_counter() - began)
            if fastest > LONGEST_S:
                break
        return fastest

    def run(self, pieces: list[Array], count: int) -> tuple[Answer, Timing]:
        """Answer ``count`` rows, given in pieces."""
        began = time.perf_counter_ns()
        gather(pieces, self._staging)
        gathered = time.perf_counter_ns()
        answer = _answer(self.infer(count))
        return answer, Timing(gathered - began, time.perf_counter_ns() - gathered, 0)


class CpuEngine(HostEngine):
    """Eager PyTorch."""

    name = "pytorch"

    def __init__(self, model: classify, shape: Sequence[int], dtype: np.dtype[np.generic], max_batch: int) -> None:
        super().__init__(shape, dtype, max_batch)
        self._model = model.eval()
        self._rows = torch.from_numpy(self._staging)
        self.memory_bytes = sum(tensor.nbytes for tensor in model.state_dict().values())

    def warm_up(self) -> None:
        """Choose the weights' memory format, too.

        With channels last, PyTorch's convolutions and poolings on the CPU can be up to twice as fast
        (docs.pytorch.org/tutorials/intermediate/memory_format_tutorial.html).
        """
        rows = min(COMPARED, len(self._staging)) if self.seconds(1) < LONGEST_S / COMPARED else 1
        formats: dict[torch.memory_format, float] = {}
        for each in (torch.contiguous_format, torch.channels_last):
            self._model.to(memory_format=each)
            formats[each] = self.seconds(rows)
        self._model.to(memory_format=min(formats, key=formats.__getitem__))
        super().warm_up()

    def infer(self, count: int) -> Sequence[Array]:
        """What the model gives for the first rows."""
        with torch.inference_mode():
            return [output.numpy() for output in self._model(self._rows[:count])]


class CudaEngine:
    """CUDA graphs, one for each bucket of batch sizes, fed from pinned memory."""

    name = "cuda graphs"

    def __init__(self, model: classify, shape: Sequence[int], dtype: np.dtype[np.generic], max_batch: int) -> None:
        self._device = torch.device("cuda", torch.cuda.current_device())
        # TensorFloat-32, cuDNN's default for convolutions, is three digits off: an answer equals eager float32.
        torch.backends.cudnn.allow_tf32 = False
        self._reserved = torch.cuda.memory_reserved(self._device)
        self._model = model.eval().to(self._device)
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._pinned = torch.empty(
            (max_batch, *shape), dtype=torch.from_numpy(np.empty(0, dtype)).dtype, pin_memory=True
        )
        self._staging = self._pinned.numpy()
        self._input = torch.zeros_like(self._pinned, device=self._device)
        self._buckets = buckets(max_batch)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, tuple[torch.Tensor, ...]]] = {}
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.best_batch = max_batch
        self.memory_bytes = 0

    def warm_up(self) -> None:
        """Capture a graph for each bucket, the largest first, so that the smaller ones share its memory pool.

        As PyTorch's notes on CUDA graphs ask (docs.pytorch.org/docs/stable/notes/cuda.html), a few eager runs on a
        side stream come first: they let cuBLAS and cuDNN choose and allocate outside the capture.
        """
        # What the constructor put on the default stream comes before the captures on this one.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        pool = None
        for size in reversed(self._buckets):
            rows = self._input[:size]
            with torch.inference_mode(), torch.cuda.stream(self._stream):
                for _ in range(3):
                    self._model(rows)
                self._stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
                    outputs = self._model(rows)
            pool = graph.pool()
            self._graphs[size] = (graph, outputs)
        with torch.cuda.stream(self._stream):
            for graph, _ in self._graphs.values():  # its first replay uploads a graph
                graph.replay()
        self._stream.synchronize()
        # Reserved, not allocated: a graph's pool keeps what was freed inside the capture.
        self.memory_bytes = torch.cuda.memory_reserved(self._device) - self._reserved

    def run(self, pieces: list[Array], count: int) -> tuple[Answer, Timing]:
        """Answer ``count`` rows, given in pieces; rows of padding hold an earlier batch and are cut off."""
        began = time.perf_counter_ns()
        gather(pieces, self._staging)
        size = next(bucket for bucket in self._buckets if bucket >= count)
        graph, outputs = self._graphs[size]
        gathered = time.perf_counter_ns()
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            self._input[:count].copy_(self._pinned[:count], non_blocking=True)
            graph.replay()
            # The graph writes its outputs again with the next batch, so they are copied out before it returns.
            host = [torch.empty_like(out, device="cpu", pin_memory=True) for out in outputs]
            for source, target in zip(outputs, host, strict=True):
                target.copy_(source, non_blocking=True)
            self._done.record(self._stream)
        self._done.synchronize()  # waits without the GIL
        inferred = time.perf_counter_ns()
        # A copy of its own: pinned memory is too dear to be held for as long as an answer travels.
        answer = _answer([array[:count].numpy().copy() for array in host])
        return answer, Timing(gathered - began, inferred - gathered, time.perf_counter_ns() - inferred)


def _answer(outputs: Sequence[Array]) -> Answer:
    probabilities, labels, *made = outputs
    return Answer(probabilities, labels, reconstructions=made[0] if made else None)


def gather(pieces: list[Array], into: Array) -> None:
    """Copy the rows of all pieces, one after the other, to the start of ``into``."""
    position = 0
    for piece in pieces:
        end = position + len(piece)
        into[position:end] = piece
        position = end
