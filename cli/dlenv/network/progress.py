"""How far a download is: a bar on a terminal, else a line from time to time; both on stderr."""

from __future__ import annotations

import time

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from dlenv.console import say

_EVERY = 10.0  # seconds between lines in a pipe


class DownloadProgress:
    """A context whose value is called with the bytes that are there and, where known, the bytes of the whole file."""

    def __init__(self, name: str) -> None:
        console = Console(stderr=True)
        self._name = name
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(name, total=None)
        self._said = self._since = time.monotonic()
        self._first: int | None = None  # what an earlier run had left is no part of the speed

    def __enter__(self) -> DownloadProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def rename(self, name: str) -> None:
        """Show ``name`` from now on."""
        self._name = name
        self._bar.update(self._task, description=name)

    def __call__(self, done: int, total: int | None) -> None:
        """``done`` of ``total`` bytes are there."""
        self._bar.update(self._task, completed=done, total=total)
        now = time.monotonic()
        if self._first is None or done < self._first:
            self._first, self._since = done, now
        if not self._bar.disable or now - self._said < _EVERY:
            return
        self._said = now
        speed = (done - self._first) / max(now - self._since, 1e-3)
        line = f"{self._name}: {decimal(done)}"
        if total is not None:
            line += f" of {decimal(total)}"
        line += f", {decimal(int(speed))}/s"
        if total is not None and speed > 0:
            line += f", {(total - done) / speed:.0f} s left"
        say(line)
