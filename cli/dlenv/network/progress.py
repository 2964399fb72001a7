"""How far a download is: a bar on a terminal, else a line from time to time; both on stderr."""

from __future__ import annotations

import time

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from dlenv.console import pass_on, say, shown
from dlenv.language import translated

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
            disable=not console.is_interactive,  # nor can bars be drawn on a terminal that is "dumb"
        )
        self._task = self._bar.add_task(translated(name), total=None)
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
        self._bar.update(self._task, description=translated(name))

    def say(self, line: str) -> None:
        """A line of the program that downloads, above the bar."""
        if self._bar.disable:
            pass_on(line)
        else:
            self._bar.console.print(Text(shown(line)), soft_wrap=True)

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
        line = f"{self._name}: {decimal(done)}" if done or total else self._name
        if total is not None and done < total:
            line += f" of {decimal(total)}"
        if done and done != total:
            line += f", {decimal(int(speed))}/s"
        if total is not None and done < total and speed > 0:
            line += f", {_duration((total - done) / speed)} left"
        say(line)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"about {seconds / 60:.0f} min"
