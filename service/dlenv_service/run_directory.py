"""The private directory of one run, and what is left of runs that were cut off."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dlenv_service import processes
from dlenv_service.arrangement import RAY_FILES

__all__ = ["run_directory"]

# Not $TMPDIR: Ray makes Unix sockets below it, whose paths end at 107 characters.
SHORT = "/tmp"  # noqa: S108 - mkdtemp makes a private directory there
PREFIX = "dlenv-run-"
LOCK = "lock"


@contextlib.contextmanager
def run_directory() -> Iterator[Path]:
    """A directory for one run, for this user only; those of runs that were killed go first, with their processes."""
    parent = Path(SHORT) if Path(SHORT).is_dir() else Path(tempfile.gettempdir())
    _sweep(parent)
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    try:
        with _locked(directory):
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[bool]:
    """Hold the lock that says that the run lives; false where somebody else holds it. The kernel frees it."""
    if sys.platform == "win32":
        yield True
        return
    import fcntl

    with (directory / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _sweep(parent: Path) -> None:
    if sys.platform == "win32":  # no locks there that tell a dead run from a live one
        return
    for directory in parent.glob(f"{PREFIX}*"):
        # Another run may take it away at any point of this.
        with contextlib.suppress(OSError):
            # Without its lock file a run is about to start.
            if _is_ours(directory) and (directory / LOCK).is_file():
                _clear(directory)


def _is_ours(directory: Path) -> bool:
    """Whether this user made it: everybody can make a directory of that name, or a link, and lay a trap in it."""
    found = directory.lstat()
    return stat.S_ISDIR(found.st_mode) and (not hasattr(os, "getuid") or found.st_uid == os.getuid())


def _clear(directory: Path) -> None:
    with _locked(directory) as dead:
        if dead:
            processes.end(directory / RAY_FILES, patience_s=1)
            shutil.rmtree(directory, ignore_errors=True)
