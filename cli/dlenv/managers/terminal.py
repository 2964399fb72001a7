"""Running a program on a terminal of its own, so that it draws its bars, and reading all that it says."""

from __future__ import annotations

import codecs
import os
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# Wide and high enough for a bar each of uv's 50 downloads at once (UV_CONCURRENT_DOWNLOADS), names of packages whole.
COLUMNS = 132
_ROWS = 200


def run(command: Sequence[str], environment: Mapping[str, str], cwd: Path, read: Callable[[str], None]) -> int:
    """The exit status of the program; ``read`` is called with each piece of what it says on standard error.

    The terminal has ``COLUMNS``. Where there are none (Windows, a sandbox), it is a pipe.
    """
    ours, its, extra = _pair()
    try:
        with subprocess.Popen(
            command, env={**environment, **extra}, cwd=cwd, stdout=subprocess.DEVNULL, stderr=its
        ) as process:
            try:
                os.close(its)
                its = -1
                _read(ours, read)
            except BaseException:
                process.terminate()
                raise
        return process.returncode
    finally:
        os.close(ours)
        if its >= 0:
            os.close(its)


def _pair() -> tuple[int, int, dict[str, str]]:
    """Our end and the program's, and what the program has to know of them."""
    try:
        import fcntl
        import pty
        import termios

        ours, its = pty.openpty()
    except (ImportError, OSError):
        return (*os.pipe(), {})
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, COLUMNS, 0, 0))
    # That of the user's may be none, or one that can't be drawn on: in a container, or in an editor.
    return ours, its, {"TERM": "xterm-256color"}


def _read(end: int, read: Callable[[str], None]) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # uv writes UTF-8 on every system
    while True:
        try:
            piece = os.read(end, 1 << 16)
        except OSError:  # EIO: how Linux says that the other side is closed
            return
        if not piece:
            return
        read(decoder.decode(piece))
