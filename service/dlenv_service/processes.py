"""What a Ray of our own leaves behind: its processes, found by the run's directory."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["end", "of_run", "soft_stop_haproxy"]

PROC = Path("/proc")

# Names of Ray's compiled processes and HAProxy, and how the titles begin that Ray's Python processes give themselves
# (ray/_private/ray_constants.py; ray/dashboard/subprocesses/module.py).
NAMES = ("gcs_server", "raylet", "haproxy")
TITLES = ("ray::", "ray-dashboard-")
# Those Python processes that have no title, or none yet, are known by their script: agent.py, monitor.py,
# log_monitor.py, default_worker.py (ray/_private/services.py starts them).
SCRIPT = re.compile(r"/ray/(?:_private|autoscaler|dashboard)/.*\.py$")


def of_run(directory: Path) -> list[int]:
    """Process ids of what has ``directory`` in its environment, and of Ray's and HAProxy's that have a file in it open.

    Both, since a title that Ray's workers write can reach into their environment, and HAProxy closes what it inherits.
    Somebody's ``tail -f`` on a log of the run is no part of it. Only Linux tells; elsewhere Ray's own reaper has to do.
    Our own process is left out.
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
        return _is_rays(pid) and _has_open(pid, directory)
    return False


def _is_rays(pid: int) -> bool:
    """Whether it is one of Ray's processes or HAProxy, of whatever run."""
    name = _name(pid)
    words = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    if name in NAMES or name.startswith(TITLES) or words[0].startswith(TITLES):
        return True
    # The script is the first word that isn't an option of Python's.
    script = next((word for word in words[1:] if not word.startswith("-")), "")
    return Path(words[0]).name.startswith("python") and SCRIPT.search(script) is not None


def _has_open(pid: int, directory: str) -> bool:
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
