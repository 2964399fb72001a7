"""uv, the installer that every environment is filled by, and that makes virtual environments.

uv is a dependency of dlenv, so it is always there. Everything goes by its documented command line
(https://docs.astral.sh/uv/reference/cli/): ``uv python``, ``uv venv``, ``uv pip``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from dlenv.errors import SetupError
from dlenv.managers import terminal, uv_settings
from dlenv.managers.talk import Talk
from dlenv.managers.uv_settings import environ as environ
from dlenv.network.http import clock_hint, redacted
from dlenv.network.progress import DownloadProgress

_INSTALLED = " + "  # a line for each of a few hundred packages, which the environment's record holds
_TAIL = 25  # lines of uv's talk that an error repeats
# The system's own words for ENOSPC, EDQUOT and, on Windows, ERROR_DISK_FULL.
_DISK_FULL = ("No space left on device", "Disk quota exceeded", "not enough space on the disk")
_NO_SOLUTION = "No solution found when resolving"
# A resolution that failed for want of a package, a version or a wheel, which another index may have (texts of uv
# 0.13.9, crates/uv-resolver: "was not found in the package registry", "there is no version of", "only ... is
# available", "has no usable wheels", "could not be ...").
_LACKING = ("not found", "no version", "available", "wheels", "could not be", "unavailable")


def program() -> str:
    """The path of the uv that dlenv depends on; raises ``SetupError`` where it is gone."""
    import uv

    try:
        return os.fspath(uv.find_uv_bin())
    except FileNotFoundError as error:
        raise SetupError(
            f"uv, which dlenv depends on, is not where it was installed ({error}); reinstall dlenv"
        ) from None


class Failed(Exception):
    """uv failed; its text is the end of what it said. Another source may do: it could not fetch, or lacks something."""


class Hopeless(Failed):
    """No other source will do: every package was found and they exclude each other, or the disk is full."""


def run(
    words: Sequence[str | Path],
    extra: Mapping[str, str] = {},
    *,
    show: bool = False,
    full: tuple[int, int] | None = None,
    project: Path | None = None,
    settings: Mapping[str, object] = {},
) -> str:
    """Run ``uv`` with these words, every path among them absolute; its standard output.

    ``show`` passes its lines through, with the progress of all its downloads in one, and returns nothing of it;
    ``full`` are the packages to be installed and the bytes of all their files, where those are known. ``project`` is
    the folder whose ``pyproject.toml`` counts: none, unless it is given, since uv would take sources from the one that
    the user happens to be in. ``settings`` are those of a ``uv.toml``; of the user's own, see ``uv_settings``.

    Raises ``Failed`` with the end of the talk, ``Hopeless`` where that tells that no other source will do.
    """
    with tempfile.TemporaryDirectory(prefix="dlenv-") as scratch:
        file = Path(scratch) / "uv.toml"
        file.write_text(uv_settings.configuration(extra, settings), encoding="utf-8")
        command = [program(), *map(str, words), "--config-file", str(file)]
        environment, cwd = uv_settings.environ(extra), project or Path(Path.cwd().anchor)
        if show:
            _show(command, environment, cwd, full)
            return ""
        return _run(command, environment, cwd)


def _failure(talk: str) -> Failed:
    """The error that uv's ``talk`` tells of."""
    text = redacted("\n".join(talk.strip().splitlines()[-_TAIL:]))
    words = " ".join(talk.split())
    if clock := clock_hint(words):
        text = f"{text}\n{clock}"
    conflict = _NO_SOLUTION in words and not any(lack in words.partition(_NO_SOLUTION)[2] for lack in _LACKING)
    return Hopeless(text) if conflict or any(full in words for full in _DISK_FULL) else Failed(text)


def _show(command: Sequence[str], environment: Mapping[str, str], cwd: Path, full: tuple[int, int] | None) -> None:
    seen = sys.stderr.isatty()
    if seen and sys.platform == "win32":  # there uv's bars are to be had on the user's own terminal alone
        status, said = subprocess.run(command, env=environment, cwd=cwd, stdout=subprocess.DEVNULL).returncode, []
    else:
        status, said = _followed(command, environment, cwd, full)
    if status:
        failure = _failure("\n".join(said))
        raise type(failure)("see what uv says above") if seen else failure


def _followed(
    command: Sequence[str], environment: Mapping[str, str], cwd: Path, full: tuple[int, int] | None
) -> tuple[int, list[str]]:
    """Run the command, showing its lines and progress; its exit status and lines."""
    talk = Talk(terminal.COLUMNS, full)
    said: list[str] = []
    with DownloadProgress("Packages") as progress:

        def tell(lines: Sequence[str]) -> None:
            said.extend(lines)
            for line in lines:
                if not line.startswith(_INSTALLED):
                    progress.say(redacted(line.rstrip()))

        def read(text: str) -> None:
            tell(talk.feed(text))
            progress.rename(talk.label or "Packages")
            progress(talk.done, talk.total)

        status = terminal.run(command, environment, cwd, read)
        tell(talk.end())
    return status, said


def _run(command: Sequence[str], environment: Mapping[str, str], cwd: Path) -> str:
    # uv writes UTF-8 on every system.
    with subprocess.Popen(
        command,
        env=environment,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            output, talk = process.communicate()
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise _failure(talk)
    return output
