"""What a Ray of our own leaves behind: its processes, found by the run's directory."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["end", "of_run", "soft_stop_haproxy"]

PROC = Path("/proc")


def of_run(directory: Path) -> list[int]:
    """Process ids of everything that has ``directory`` in its environment or a file in it open, except ourselves.

    Both, since Ray's workers write their title over their environment, and HAProxy closes what it inherits. Only
    Linux tells; elsewhere Ray's own reaper has to do.
    """
    return [pid for pid in _others() if _belongs(pid, str(directory))]


def soft_stop_haproxy(directory: Path, patience_s: float = 2.0) -> None:
    """Let HAProxy take no more connections and answer on those that there are, closing each with its next answer.

    Ray stops it together with all connections. It exits when the last one is closed, which idle clients can delay;
    after ``patience_s`` only those are left.
    """
    deadline = time.monotonic() + patience_s
    for pid in _haproxies(directory):
        _signal(pid, signal.SIGUSR1)
    while time.monotonic() < deadline and _haproxies(directory):
        time.sleep(0.05)


def _haproxies(directory: Path) -> list[int]:
    return [pid for pid in of_run(directory) if _name(pid) == "haproxy"]


def _name(pid: int) -> str:
    try:
        return (PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return ""


def _others() -> Iterator[int]:
    for entry in PROC.glob("[0-9]*"):
        if int(entry.name) != os.getpid():
            yield int(entry.name)


def _belongs(pid: int, directory: str) -> bool:
    # Gone meanwhile, or another user's.
    with contextlib.suppress(OSError):
        if f"RAY_TMPDIR={directory}".encode() in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
            return True
        for entry in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                if str(entry.readlink()).startswith(f"{directory}/"):
                    return True
    return False


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
