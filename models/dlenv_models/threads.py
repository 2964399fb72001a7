"""How many CPU threads one operator uses."""

from __future__ import annotations

import torch

from dlenv_models.architectures import ARCHITECTURES

__all__ = ["use"]

# What PyTorch would take: as many as there are cores. Read before anything changes it.
_CORES = torch.get_num_threads()


def use(architecture: str, threads: int | None = None) -> int:
    """Set PyTorch's thread count for the rest of this process, and return it.

    Without a number: one thread for the small architectures, so that the weights don't depend on the number of cores,
    and because two that wait for each other after every small operator lose more on a busy machine than they win on a
    quiet one (LeNet on two cores: 0.45 against 1.55 times one thread's speed; ``tests/bench/RESULTS.md``). A deep
    network gets every core.
    """
    count = threads or (_CORES if ARCHITECTURES[architecture].deep else 1)
    torch.set_num_threads(count)
    return count
