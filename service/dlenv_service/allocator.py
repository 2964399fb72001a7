"""The C library's allocator, told to keep what PyTorch frees.

What lies between a model's layers is freed after every batch. glibc gives large blocks back to the system at once, and
takes them again for the next batch: page faults by the thousand, which cost as much time as the model (LeNet,
in batches of 64: figures in tests/bench/RESULTS.md). PyTorch's tuning guide advises another allocator for it
(docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html); two settings of this one do as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys

__all__ = ["keep_freed_memory"]

# glibc's malloc.h, and the largest threshold that it takes on 64 bits (malloc/malloc.c, HEAP_MAX_SIZE / 2).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 << 20
# Bytes that may lie unused at the end of the heap before they go back.
KEPT = 1 << 30


def keep_freed_memory() -> None:
    """Set this process's allocator so; where it is another one than glibc's, nothing happens."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # musl has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, KEPT)
