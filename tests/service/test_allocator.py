"""Memory that is freed stays with the process: seen in page faults, which is what it costs otherwise."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from dlenv_service.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def use():
    np.empty(16 << 20, np.uint8).fill(1)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(word: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's; runs on most Linux systems")
def test_freed_memory_is_used_again() -> None:
    # glibc raises its threshold by itself up to 32 MiB as blocks are freed, but gives the top of the heap back.
    assert faults("keep") < 100 < faults("not")
