"""Running a program whose talk the user sees as on a terminal, with its bars, and of which the text is kept, too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Control sequences (ECMA-48, section 5.4): colours, and the movements of bars.
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_KEPT = 64 << 10  # bytes from the end of the talk


def run(command: Sequence[str], environment: Mapping[str, str], cwd: Path) -> tuple[int, str]:
    """The exit status of the program, and the end of what it said; on Windows, which has no such terminals, ""."""
    if sys.platform == "win32":
        return subprocess.run(command, env=environment, cwd=cwd, stdout=subprocess.DEVNULL, check=False).returncode, ""
    import fcntl
    import pty
    import termios

    ours, its = pty.openpty()
    try:
        size = fcntl.ioctl(sys.stderr.fileno(), termios.TIOCGWINSZ, bytes(8))
        fcntl.ioctl(its, termios.TIOCSWINSZ, size)
        with subprocess.Popen(command, env=environment, cwd=cwd, stdout=subprocess.DEVNULL, stderr=its) as process:
            try:
                os.close(its)
                its = -1
                talk = _passed_on(ours)
            except BaseException:
                process.terminate()
                raise
        return process.returncode, _CONTROL.sub("", talk.decode("utf-8", "replace"))
    finally:
        os.close(ours)
        if its >= 0:
            os.close(its)


def _passed_on(terminal: int) -> bytes:
    """Write what comes to standard error, until the other side is closed; its end."""
    talk = b""
    while True:
        try:
            piece = os.read(terminal, 1 << 16)
        except OSError:  # EIO: how Linux says that the other side is closed
            return talk
        if not piece:
            return talk
        talk = (talk + piece)[-_KEPT:]
        while piece:
            piece = piece[os.write(sys.stderr.fileno(), piece) :]
