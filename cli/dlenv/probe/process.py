"""A process of its own session, ended with everything that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

__all__ = ["code", "end", "reason", "start"]

_PATIENCE_S = 5


def start(command: Sequence[str], environment: Mapping[str, str], folder: str, log: Path) -> subprocess.Popen[bytes]:
    """Start ``command`` in ``folder``; what it prints can be read, and its errors go to ``log``. Raises ``OSError``."""
    with log.open("ab") as errors:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
        )


def code(child: subprocess.Popen[bytes]) -> int | None:
    """The exit code of a process that has closed its output; None where it goes on all the same."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return child.wait(_PATIENCE_S)
    return None


def end(child: subprocess.Popen[bytes]) -> None:
    """End ``child`` and what it started, also what went into sessions of its own, as Jupyter's kernels do."""
    descendants: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        descendants = psutil.Process(child.pid).children(recursive=True)
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
    for process in descendants:
        with contextlib.suppress(psutil.Error):
            process.kill()
    if child.poll() is None:
        child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):  # a process that waits for a dead disk can't be killed
        child.wait(_PATIENCE_S)


def reason(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None:
        return "does not end"
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in {item.value for item in signal.Signals} else f"signal {-code}"
    hint = " (the system does that where memory runs out)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"
