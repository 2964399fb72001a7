"""A batch for which there is no memory is run in halves, and in whole batches again once there is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dlenv_service.batcher import Answer, Array
from dlenv_service.device import Timing
from dlenv_service.halving import PATIENCE_S, Halving, is_out_of_memory


class Scarce:
    """A runner that has memory for so many rows; each row's label is its value."""

    name = "scarce"

    def __init__(self, most: int, error: Exception) -> None:
        self.most = most
        self.error = error
        self.sizes: list[int] = []

    def run(self, pieces: list[Array], count: int) -> tuple[Answer, Timing]:
        self.sizes.append(count)
        if count > self.most:
            raise self.error
        rows = np.concatenate(pieces)
        assert len(rows) == count
        return Answer(np.stack([rows, rows], 1).astype(np.float32), rows.astype(np.int64)), Timing(1, 10, 100)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


PIECES = [np.arange(5), np.arange(5, 6), np.arange(6, 13)]
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


@pytest.mark.parametrize("most", [1, 2, 3, 5, 12])
def test_all_rows_are_answered_in_their_order(most: int) -> None:
    runner = Scarce(most, CUDA)
    answer, timing = Halving(Clock()).run(runner, PIECES, 13)
    assert answer.labels.tolist() == list(range(13))
    assert answer.probabilities[:, 1].tolist() == list(range(13))
    runs = sum(size <= most for size in runner.sizes)
    assert (timing.input, timing.infer, timing.output) == (runs, 10 * runs, 100 * runs)


def test_what_did_not_fit_is_not_tried_again_at_once_but_after_a_while() -> None:
    clock, runner = Clock(), Scarce(4, CUDA)
    halving = Halving(clock)
    for _ in range(3):
        halving.run(runner, PIECES, 13)
    assert runner.sizes[:3] == [13, 6, 3]
    assert max(runner.sizes[3:]) == 3
    runner.sizes.clear()
    clock.now += PATIENCE_S + 1
    halving.run(runner, PIECES, 13)
    assert runner.sizes[0] == 6  # too many still
    runner.most, runner.sizes = 64, []
    for _ in range(3):
        clock.now += PATIENCE_S + 1
        halving.run(runner, PIECES, 13)
    assert runner.sizes[-1] == 13


def test_a_row_that_does_not_fit_and_other_errors_are_the_runners() -> None:
    for error, most in ((CUDA, 0), (RuntimeError("shape"), 4)):
        runner = Scarce(most, error)
        with pytest.raises(type(error)) as caught:
            Halving(Clock()).run(runner, PIECES, 13)
        assert caught.value is error
        assert runner.sizes[0] == 13
        assert runner.sizes[-1] == (1 if error is CUDA else 13)


def test_real_shortages_are_recognised() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(2**60, np.uint8)
    assert is_out_of_memory(of_torch.value)
    assert is_out_of_memory(of_numpy.value)
    assert is_out_of_memory(CUDA)
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(ValueError("out of memory"))
