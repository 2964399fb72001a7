"""A process of its own session, ended with everything that it started."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

__all__ = ["Children", "code", "end", "reason"]

_PATIENCE_S = 5


class Children:
    """Processes that one thread starts and waits for, and that another may stop: Ctrl-C reaches only the main one."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], folder: str, log: Path
    ) -> subprocess.Popen[bytes]:
        """Start ``command`` in ``folder``; what it prints can be read, and its errors go to ``log``.

        Raises ``OSError``, also where everything was stopped.
        """
        with self._lock, log.open("ab") as errors:
            if self._stopped:
                raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=dict(environment),
                cwd=folder,
                start_new_session=True,
            )
            self._running.add(child)
        return child

    def end(self, child: subprocess.Popen[bytes]) -> None:
        """End ``child`` with what it started."""
        end(child)
        with self._lock:
            self._running.discard(child)

    def stop(self) -> None:
        """End whatever runs; nothing more is started."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for child in running:
            end(child)


def code(child: subprocess.Popen[bytes]) -> int | None:
    """The exit code of a process that has closed its output; None where it goes on all the same."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return child.wait(_PATIENCE_S)
    return None


def end(child: subprocess.Popen[bytes]) -> None:
    """End ``child`` and what it started, also what went into sessions of its own, as Jupyter's kernels do."""
    _signal(child, "SIGSTOP")  # what is listed next starts nothing more
    descendants: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        descendants = psutil.Process(child.pid).children(recursive=True)
    _signal(child, "SIGKILL")
    for process in descendants:
        with contextlib.suppress(psutil.Error):
            process.kill()
    if child.poll() is None:
        child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):  # a process that waits for a dead disk can't be killed
        child.wait(_PATIENCE_S)


def _signal(child: subprocess.Popen[bytes], name: str) -> None:
    """Send a signal to the session of ``child``, where there are such."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            os.killpg(child.pid, signal.Signals[name])


def reason(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None:
        return "does not end"
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in {item.value for item in signal.Signals} else f"signal {-code}"
    hint = " (the system does that where memory runs out)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"
