"""SIGINT and SIGTERM as an exception, for a program that spends its life in calls that block."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

__all__ = ["Stopped", "ignored", "install", "raising"]


# One who asks once can be heard twice: coreutils' timeout, for one, tells the program and then its whole process group.
TOGETHER_S = 0.5
_heard = -TOGETHER_S


class Stopped(BaseException):
    """A signal asked for the end; not an Exception, so that nothing on the way takes it for an error."""


def _stop(_number: int, _frame: FrameType | None) -> None:
    global _heard
    now = time.monotonic()
    if now - _heard < TOGETHER_S:
        return
    _heard = now
    raise Stopped


def install() -> None:
    """Raise :class:`Stopped` on SIGINT and SIGTERM from now on, whoever has put a handler in place meanwhile."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Raise :class:`Stopped` in here on SIGINT and SIGTERM."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    install()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ignored() -> Iterator[None]:
    """Let no signal come between."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
