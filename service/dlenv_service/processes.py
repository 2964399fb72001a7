"""What a Ray of our own leaves behind: its processes, found by the run's directory in their environment."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

__all__ = ["end", "of_run"]

PROC = Path("/proc")


def of_run(directory: Path) -> list[int]:
    """Process ids of everything that runs with ``RAY_TMPDIR=directory``, ourselves left out.

    Only Linux tells a process's environment; elsewhere Ray's own reaper has to do.
    """
    mark = f"RAY_TMPDIR={directory}".encode()
    found = []
    for entry in PROC.glob("[0-9]*"):
        try:
            if int(entry.name) != os.getpid() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:  # gone meanwhile, or another user's
            continue
    return found


def end(directory: Path, patience_s: float) -> list[int]:
    """End what is left of a run: SIGTERM, and SIGKILL after ``patience_s``; returns the ids that were killed."""
    deadline = time.monotonic() + patience_s
    for pid in of_run(directory):
        _signal(pid, signal.SIGTERM)
    while left := of_run(directory):
        if time.monotonic() > deadline:
            for pid in left:
                _signal(pid, signal.SIGKILL)
            return left
        time.sleep(0.05)
    return []


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
