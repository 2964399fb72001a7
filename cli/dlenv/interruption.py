"""Signals that end a command as Ctrl-C does: what it started is ended, and what is half made is removed."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dlenv.console import say


@contextmanager
def unwinding() -> Iterator[None]:
    """Around a command (also as a decorator): SIGTERM and a closed terminal exit with 128 + the signal's number."""

    def end(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone
            say("Terminated")
        sys.exit(128 + number)

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
    before = {name: signal.signal(getattr(signal, name), end) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
