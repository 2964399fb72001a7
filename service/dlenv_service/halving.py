"""A batch that does not fit into the memory that is left is run in halves, until there is more of it again.

What a batch takes is checked when a model is loaded. Later another program on the same GPU, or another model, can take
what was free then; smaller batches are slower, and no request fails that a smaller batch can answer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from dlenv_service.batcher import Answer, Array

if TYPE_CHECKING:
    from dlenv_service.device import Runner, Timing

__all__ = ["Halving", "is_out_of_memory"]

log = logging.getLogger("dlenv.service")

# After which twice as many rows are tried again: a try that fails costs one more run of these rows.
PATIENCE_S = 5.0


def is_out_of_memory(error: Exception) -> bool:
    """Whether a runner failed for want of memory, on a GPU or on the host."""
    if isinstance(error, MemoryError):
        return True
    import torch  # loaded by whatever raised it, and not by processes that run no models

    # The CPU's allocator has no exception of its own (c10/core/impl/alloc_cpu.cpp).
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: " in str(error)


class Halving:
    """How many rows one model's runner gets at once; used in the device's thread only."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._most: int | None = None  # None: as many as come
        self._enough = 0  # the batch that did not fit: as large as this again, and all is as it was
        self._since = 0.0  # when memory was short last, or more rows were tried

    def run(self, runner: Runner, pieces: list[Array], count: int) -> tuple[Answer, Timing]:
        """Answer ``count`` rows, given in pieces.

        Raises:
            Exception: whatever the runner raises; for want of memory only where a single row takes too much.
        """
        self._grow()
        if self._most is None or count <= self._most:
            try:
                return runner.run(pieces, count)
            except Exception as error:
                if count == 1 or not is_out_of_memory(error):
                    raise
                self._shrink(count)
        assert self._most is not None
        rows, most = np.concatenate(pieces), self._most
        parts = [
            self.run(runner, [rows[start : start + most]], min(most, count - start)) for start in range(0, count, most)
        ]
        answers, timings = zip(*parts, strict=True)
        for field in ("input", "infer", "output"):
            setattr(timings[0], field, sum(getattr(timing, field) for timing in timings))
        return Answer.joined(answers), timings[0]

    def _shrink(self, count: int) -> None:
        self._since = self._now()
        self._enough = max(self._enough, count)
        self._most = count // 2
        log.warning("no memory for a batch of %d rows; it is run in parts of %d", count, self._most)

    def _grow(self) -> None:
        if self._most is None or self._now() - self._since < PATIENCE_S:
            return
        self._since = self._now()
        self._most *= 2
        if self._most > self._enough:
            self._most, self._enough = None, 0
