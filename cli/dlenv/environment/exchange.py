"""Two paths swapped in one step, where the system can do it."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

# linux/fs.h: RENAME_EXCHANGE; linux/fcntl.h: AT_FDCWD. sys/stdio.h of macOS: RENAME_SWAP.
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_RENAME_SWAP = 2


def exchange(first: Path, second: Path) -> bool:
    """Swap two existing paths atomically (renameat2(2), renamex_np(2)); False where that can't be had."""
    if not sys.platform.startswith(("linux", "darwin")):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(first), os.fsencode(second)
    try:
        if sys.platform == "darwin":
            return bool(libc.renamex_np(*names, _RENAME_SWAP) == 0)
        return bool(libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)
    except AttributeError:  # an older C library; musl has it since 1.2.5 only
        return False
