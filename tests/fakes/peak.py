"""How much memory a piece of code takes at its peak."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROC = Path("/proc")


def kib(pid: int | str, name: str) -> int:
    """A figure of a process's memory, such as VmRSS."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", (PROC / str(pid) / "status").read_text(), re.MULTILINE)
    assert found, name
    return int(found[1])


@contextmanager
def grows_at_most(mib: float, pid: int | str = "self") -> Iterator[None]:
    """Fail where a process's memory grows by more at any moment in here; Linux only."""
    try:
        (PROC / str(pid) / "clear_refs").write_text("5")  # the peak is now what there is (proc(5))
    except OSError as error:
        pytest.skip(f"this system does not let a test set the peak of a process's memory back: {error}")
    before = kib(pid, "VmRSS")
    yield
    grown = (kib(pid, "VmHWM") - before) / 1024
    assert grown <= mib, f"grew by {grown:.0f} MiB"
