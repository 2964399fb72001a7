"""Engines against eager PyTorch in float32, on the very same rows."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from dlenv.errors import StartError
from dlenv_models import zoo
from dlenv_service.engine import CpuEngine, CudaEngine, buckets, classify, gather, pick_device

# Float32 sums in another order (other kernels for other batch sizes) differ in the last bits of a probability.
CPU_TOLERANCE = 1e-6
# cuDNN and cuBLAS sum in yet another order; TF32 is off by default for matrix products, on for convolutions.
GPU_TOLERANCE = 1e-5

MODELS = {
    "linear": ({"input_shape": [5], "classes": 3}, np.float32),
    "mlp": ({"input_shape": [1, 28, 28], "classes": 10, "hidden": [32]}, np.uint8),
    "lenet": ({"input_shape": [3, 28, 28], "classes": 10}, np.uint8),
}

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no NVIDIA GPU here; on a machine with one: pytest -m gpu tests/service"
)


def model(name: str) -> tuple[classify, list[int], np.dtype]:
    arguments, dtype = MODELS[name]
    torch.manual_seed(7)
    shape = arguments["input_shape"]
    channels = shape[0]
    scale = 1 / 255 if dtype is np.uint8 else 1.0
    mean, std = [0.1 * (1 + n) for n in range(channels)], [0.5 + 0.1 * n for n in range(channels)]
    module = classify(zoo.build(name, **arguments).eval(), shape, scale, mean, std)
    return module, shape, np.dtype(dtype)


def random_rows(shape: list[int], dtype: np.dtype, count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    if dtype == np.uint8:
        return random.integers(0, 256, (count, *shape), dtype=np.uint8)
    return random.normal(0, 2, (count, *shape)).astype(np.float32)


def eager(module: classify, rows: np.ndarray) -> np.ndarray:
    """The manifest's arithmetic, written out: ``(raw * scale - mean) / std``, the model, softmax."""
    inputs = (torch.from_numpy(rows).float() * module.scale - module.mean.cpu()) / module.std.cpu()
    with torch.no_grad():
        return torch.softmax(module.model(inputs), dim=1).numpy()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [1, 3, 8])
def test_the_cpu_engine_equals_eager_pytorch(name: str, count: int) -> None:
    module, shape, dtype = model(name)
    engine = CpuEngine(module, shape, dtype, max_batch=8)
    engine.warm_up()
    rows = random_rows(shape, dtype, count)
    answer, timing = engine.run([rows[:1], rows[1:]], count)
    wanted = eager(module, rows)
    np.testing.assert_allclose(answer.probabilities, wanted, rtol=0, atol=CPU_TOLERANCE)
    np.testing.assert_array_equal(answer.labels, wanted.argmax(1))
    assert (answer.probabilities.dtype, answer.labels.dtype) == (np.float32, np.int64)
    assert answer.probabilities.shape == (count, MODELS[name][0]["classes"])
    assert timing.infer > 0


def test_rows_of_earlier_batches_never_show_and_their_answers_stay() -> None:
    module, shape, dtype = model("mlp")
    engine = CpuEngine(module, shape, dtype, max_batch=8)
    full = random_rows(shape, dtype, 8, seed=1)
    first, _ = engine.run([full], 8)
    kept = first.probabilities.copy()
    few = random_rows(shape, dtype, 2, seed=2)
    second, _ = engine.run([few], 2)
    np.testing.assert_allclose(second.probabilities, eager(module, few), rtol=0, atol=CPU_TOLERANCE)
    assert len(second.labels) == 2
    np.testing.assert_array_equal(first.probabilities, kept)


def test_the_rows_given_are_not_changed() -> None:
    for name in MODELS:
        module, shape, dtype = model(name)
        rows = random_rows(shape, dtype, 4)
        before = rows.copy()
        CpuEngine(module, shape, dtype, max_batch=4).run([rows], 4)
        np.testing.assert_array_equal(rows, before)


def test_the_model_is_in_eval_mode() -> None:
    torch.manual_seed(0)
    dropout = zoo.build("mlp", input_shape=[4], classes=2, hidden=[64], dropout=0.9)
    module = classify(dropout.train(), [4], 1.0, [0.0] * 4, [1.0] * 4)
    engine = CpuEngine(module, [4], np.dtype(np.float32), max_batch=2)
    rows = random_rows([4], np.dtype(np.float32), 2)
    answers = [engine.run([rows], 2)[0].probabilities for _ in range(3)]
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


class Slow(torch.nn.Module):
    """Takes `call` seconds, and `row` more for every row above `room`."""

    def __init__(self, call: float, row: float = 0.0, room: int = 0) -> None:
        super().__init__()
        self.call, self.row, self.room = call, row, room
        self.sizes: list[int] = []

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(rows))
        time.sleep(self.call + self.row * max(0, len(rows) - self.room))
        return rows


def warmed_up(slow: Slow, max_batch: int) -> CpuEngine:
    module = classify(slow, [4], 1.0, [0.0] * 4, [1.0] * 4)
    engine = CpuEngine(module, [4], np.dtype(np.float32), max_batch)
    engine.warm_up()
    return engine


def test_batches_are_as_large_as_is_fastest() -> None:
    # Above 8 rows each one more costs as much as a call of 8: what a cache that is too small does, only more so.
    assert warmed_up(Slow(0.002, 0.002, 8), 64).best_batch == 8
    assert warmed_up(Slow(0.002), 48).best_batch == 48


def test_a_slow_model_is_not_run_in_large_batches() -> None:
    slow = Slow(0.06, 0.06)
    assert warmed_up(slow, 64).best_batch == 1
    assert len(slow.sizes) == 4
    assert set(slow.sizes) == {1}


def test_the_memory_format_changes_no_answer() -> None:
    module, shape, dtype = model("lenet")
    rows = random_rows(shape, dtype, 8)
    wanted = eager(module, rows)
    engine = CpuEngine(module, shape, dtype, max_batch=8)
    for memory_format in (torch.channels_last, torch.contiguous_format):
        module.to(memory_format=memory_format)
        np.testing.assert_allclose(engine.run([rows], 8)[0].probabilities, wanted, rtol=0, atol=CPU_TOLERANCE)


def test_memory_is_what_the_weights_take() -> None:
    module, shape, dtype = model("linear")
    engine = CpuEngine(module, shape, dtype, max_batch=4)
    assert engine.memory_bytes == 4 * (5 * 3 + 3 + 5 + 5)  # weights, biases, mean, std


@pytest.mark.parametrize(
    ("max_batch", "sizes"),
    [
        (1, [1]),
        (2, [1, 2]),
        (3, [1, 2, 3]),
        (8, [1, 2, 4, 8]),
        (48, [1, 2, 4, 8, 16, 32, 48]),
        (64, [1, 2, 4, 8, 16, 32, 64]),
    ],
)
def test_buckets_are_powers_of_two_and_the_largest_batch(max_batch: int, sizes: list[int]) -> None:
    assert buckets(max_batch) == sizes


def test_gather_puts_pieces_one_after_the_other() -> None:
    into = np.full((4, 2), 9)
    gather([np.array([[1, 2]]), np.array([[3, 4], [5, 6]])], into)
    assert into.tolist() == [[1, 2], [3, 4], [5, 6], [9, 9]]


def test_the_cpu_can_always_be_picked() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here; runs on machines without one")
def test_cuda_without_a_gpu_is_refused_with_the_reason() -> None:
    with pytest.raises(StartError, match=r"--device cuda: .*(no CUDA|no usable NVIDIA GPU); use --device auto"):
        pick_device("cuda")


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_every_cuda_graph_equals_eager_pytorch_on_the_cpu(name: str) -> None:
    module, shape, dtype = model(name)
    counts = range(1, 25)
    batches = [random_rows(shape, dtype, count, seed=count) for count in counts]
    wanted = [eager(module, rows) for rows in batches]  # before the engine takes the module to the GPU
    engine = CudaEngine(module, shape, dtype, max_batch=24)
    engine.warm_up()
    assert engine.memory_bytes > 0
    for rows, probabilities in zip(batches, wanted, strict=True):
        answer, _ = engine.run([rows[:1], rows[1:]], len(rows))
        np.testing.assert_allclose(answer.probabilities, probabilities, rtol=0, atol=GPU_TOLERANCE)
        assert answer.labels.tolist() == answer.probabilities.argmax(1).tolist()


@needs_gpu
@pytest.mark.gpu
def test_padding_on_the_gpu_never_shows_and_answers_stay() -> None:
    module, shape, dtype = model("mlp")
    full, few = random_rows(shape, dtype, 8, seed=1), random_rows(shape, dtype, 5, seed=2)
    wanted = eager(module, few)
    engine = CudaEngine(module, shape, dtype, max_batch=8)
    engine.warm_up()
    first, _ = engine.run([full], 8)
    kept = first.probabilities.copy()
    second, _ = engine.run([few], 5)
    np.testing.assert_allclose(second.probabilities, wanted, rtol=0, atol=GPU_TOLERANCE)
    assert len(second.labels) == 5
    np.testing.assert_array_equal(first.probabilities, kept)
