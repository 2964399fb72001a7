"""Where an environment lies, and how a new one takes its place.

An environment holds absolute paths (scripts, kernels, conda prefixes), so ours are never moved. Each is built at its
final path ``<env>.d/<id>``; ``<env>`` is a link to the one in use. Switching is one rename on POSIX; where that can't
be had (Windows' junctions, a real directory on a file system without exchange) it is two renames under a journal,
which ``recover`` undoes or completes after an interruption.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import filelock
import psutil

from dlenv.console import command_line
from dlenv.environment.exchange import exchange
from dlenv.environment.record import Record
from dlenv.errors import NoEnvironment, SetupError, UsageError

_LINK = ".link"  # the new link, before it takes its place
_OLD = ".old"  # what was at ``<env>``, while it is being replaced
_JOURNAL = ".journal.json"
_REPLACES = os.name == "posix"  # whether a link takes the place of another in one step
_CONDA_ROOT = ("condabin", "envs", "pkgs")  # what conda's installation has and its environments have not


class Home:
    """``<env>`` and the builds beside it in ``<env>.d``."""

    def __init__(self, env: Path) -> None:
        try:
            # The link itself must not be followed; but one place has to have one name, whatever leads to it.
            path = Path(os.path.abspath(env))  # noqa: PTH100
            self.env = path.parent.resolve() / path.name
        except OSError as error:
            raise UsageError(f"the current folder can't be used ({error.strerror}); change to another") from None
        if not self.env.name:
            raise UsageError(f"{env} is no place for an environment; choose another by --env")
        self.builds = self.env.with_name(self.env.name + ".d")

    def current(self) -> Path | None:
        """The folder of the environment in use: a build of ours, or a directory that somebody else made."""
        if _is_link(self.env):
            return self.env.resolve() if self.env.exists() else None
        return self.env if _is_environment(self.env) else None

    def is_foreign(self) -> bool:
        """Whether ``<env>`` is an environment that dlenv did not build, and would adopt."""
        return not _is_link(self.env) and _is_environment(self.env)

    def record(self) -> Record | None:
        """What dlenv wrote into the environment in use; None where there is none, or it is not dlenv's."""
        current = self.current()
        return Record.read(current) if current else None

    def check(self) -> None:
        """Raise ``UsageError`` where ``<env>`` is something that must not be replaced."""
        if _is_link(self.env):
            if self._target().parent != self.builds:
                raise UsageError(
                    f"{self.env} is a link to {self._target()}, which dlenv did not make; choose another by --env"
                )
        elif self.env.exists() and not _is_environment(self.env) and not _is_empty(self.env):
            raise UsageError(
                f"{self.env} exists and is not a Python environment; choose another by --env, or move it out of the way"
            )
        elif os.path.ismount(self.env):
            raise UsageError(f"{self.env} is a mount point, which can't be replaced; choose a folder below it by --env")
        elif is_conda_root(self.env):
            raise UsageError(
                f"{self.env} is conda's own installation, not one of its environments; choose another by --env"
            )
        elif self.env.is_dir() and self.env.samefile(sys.prefix):
            raise UsageError(f"{self.env} is the environment that dlenv itself runs from; choose another by --env")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Only one setup works on an environment at a time; what an earlier one left unfinished is put right first."""
        try:
            self.builds.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SetupError(f"{self.builds} can't be made ({error.strerror}); choose another place by --env") from None
        try:
            with filelock.FileLock(self.builds / ".lock", timeout=0):
                self.recover()
                yield
        except filelock.Timeout:
            raise SetupError(f"another dlenv setup is working on {self.env}; wait until it has finished") from None

    def new(self) -> Path:
        """The path for a new build; nothing is there yet."""
        return self.builds / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"

    def switch(self, build: Path) -> Path | None:
        """Make ``<env>`` the environment ``build``; where a directory found there is kept, or None."""
        try:
            return self._switch(build)
        except OSError as error:
            raise SetupError(
                f"{self.env} could not be replaced ({error.strerror}); the new environment was not put in place"
            ) from None

    def _switch(self, build: Path) -> Path | None:
        link = self.builds / _LINK
        _remove_link(link)
        _make_link(link, build)
        if self.env.is_dir() and not _is_link(self.env) and _is_empty(self.env):
            self.env.rmdir()
        if _REPLACES and (_is_link(self.env) or not self.env.exists()):
            link.replace(self.env)
            return None
        if not _is_link(self.env) and exchange(link, self.env):
            return self._adopt(link)
        self._replace_in_two_steps(link)
        old = self.builds / _OLD
        return None if _remove_link(old) or not old.exists() else self._adopt(old)

    def recover(self) -> None:
        """Undo or complete what an interrupted ``switch`` left."""
        old, link, journal = self.builds / _OLD, self.builds / _LINK, self.builds / _JOURNAL
        if journal.exists():
            if not os.path.lexists(self.env) and os.path.lexists(old):
                old.rename(self.env)
            journal.unlink()
        for path in (old, link):
            if not _remove_link(path) and path.is_dir():
                self._adopt(path)

    def unfinished(self) -> list[Path]:
        """Builds that were interrupted: without a record, and not the one in use."""
        return [path for path in self._all() if Record.read(path) is None and path != self.current()]

    def previous(self) -> list[Path]:
        """Finished builds of ours that are not the one in use."""
        return [path for path in self._all() if Record.read(path) is not None and path != self.current()]

    def clean(self) -> list[Path]:
        """Remove unfinished builds, and previous ones that no process uses and nobody installed anything into.

        Returns the builds that stay beside the one in use.
        """
        for path in self.unfinished():
            remove(path)
        kept = []
        used = _in_use(self.builds)
        for path in self.previous():
            record = Record.read(path)
            if path in used or (record and record.added(path)):
                kept.append(path)
            else:
                remove(path)
        return kept

    def _all(self) -> list[Path]:
        if not self.builds.is_dir():
            return []
        return sorted(path for path in self.builds.iterdir() if path.name[0].isdigit() and path.is_dir())

    def _target(self) -> Path:
        return Path(os.path.abspath(self.env.parent / os.readlink(self.env).removeprefix("\\\\?\\")))  # noqa: PTH100, PTH115

    def _adopt(self, directory: Path) -> Path:
        kept = self.builds / f"kept-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        directory.rename(kept)
        return kept

    def _replace_in_two_steps(self, link: Path) -> None:
        journal, old = self.builds / _JOURNAL, self.builds / _OLD
        journal.write_text(json.dumps({"env": str(self.env)}))
        if os.path.lexists(self.env):
            self.env.rename(old)
        link.rename(self.env)
        journal.unlink()


def executable(env: Path) -> Path:
    """The Python of the environment ``env``; raises ``NoEnvironment`` where there is none."""
    for path in (env / "bin" / "python", env / "Scripts" / "python.exe", env / "python.exe"):
        if path.exists():
            return path
    raise NoEnvironment(
        f"{env} is not a Python environment; make one by: {command_line('dlenv', 'setup', '--env', env)}"
    )


def is_conda_root(path: Path) -> bool:
    """Whether ``path`` is what conda itself and its other environments live in."""
    return (path / "conda-meta").is_dir() and any((path / name).exists() for name in _CONDA_ROOT)


def remove(build: Path) -> None:
    """Remove a build; its record goes first, so that an interruption leaves an unfinished build, not half of one."""
    with contextlib.suppress(FileNotFoundError):
        Record.path(build).unlink()
    shutil.rmtree(build, ignore_errors=True)


def _is_environment(path: Path) -> bool:
    return (path / "pyvenv.cfg").is_file() or (path / "conda-meta").is_dir()


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _is_link(path: Path) -> bool:
    if path.is_symlink():
        return True
    # os.path.isjunction comes with Python 3.12; a junction is the only directory here that readlink can read.
    if os.name == "nt" and path.exists():
        with contextlib.suppress(OSError):
            return bool(os.readlink(path))  # noqa: PTH115
    return False


def _make_link(link: Path, target: Path) -> None:
    if sys.platform == "win32":
        import _winapi  # symbolic links need a privilege on Windows, junctions do not

        _winapi.CreateJunction(str(target), str(link))
    else:
        # Relative to where the link will lie: beside the folder of builds.
        link.symlink_to(Path(target.parent.name) / target.name)


def _remove_link(path: Path) -> bool:
    if not _is_link(path):
        return False
    if path.is_symlink():
        path.unlink()
    else:
        path.rmdir()
    return True


def _in_use(builds: Path) -> set[Path]:
    """Builds that a process has mapped files of, runs in, or was started from."""
    used = set()
    for process in psutil.process_iter():
        paths: list[str] = []
        with contextlib.suppress(psutil.Error, OSError):
            paths += [*process.cmdline()[:2], process.cwd()]
        with contextlib.suppress(psutil.Error, OSError, KeyError):
            paths.append(process.environ()["VIRTUAL_ENV"])
        with contextlib.suppress(psutil.Error, OSError, AttributeError):  # memory_maps is missing on macOS
            paths += [mapping.path for mapping in process.memory_maps()]
        for path in map(Path, paths):
            # A program's path may lead through links above the builds, and is a link itself in the environment.
            for place in (path, path.parent.parent.resolve()):
                if place.is_relative_to(builds) and place != builds:
                    used.add(builds / place.relative_to(builds).parts[0])
    return used
