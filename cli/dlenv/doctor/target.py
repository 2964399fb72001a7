"""Which environment is examined."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from dlenv.doctor.facts import Target
from dlenv.errors import UsageError

__all__ = ["choose"]


def choose(env: Path | None, python: Path | None, environ: Mapping[str, str], folder: Path) -> Target:
    """What the user names; else the active environment, ``.venv`` in ``folder``, the Python that runs dlenv.

    Raises ``UsageError`` where what the user names is no environment or no Python at all. One that is broken is one.
    """
    if env is not None and python is not None:
        raise UsageError("--env and --python both name what to examine; give one of them")
    if env is not None:
        if not _is_environment(env):
            raise UsageError(f"{env} is not a Python environment: it holds neither pyvenv.cfg nor conda-meta")
        return _of(env, "--env")
    if python is not None:
        if not python.is_file():
            raise UsageError(f"{python} is not there; give a Python by --python, or an environment by --env")
        return _around(python.absolute(), "--python")
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if value := environ.get(variable):
            return _of(Path(value), variable)
    if _is_environment(folder / ".venv"):
        return _of(folder / ".venv", ".venv in the current folder")
    return _around(Path(sys.executable), "the Python that runs dlenv")


def _is_environment(folder: Path) -> bool:
    return (folder / "pyvenv.cfg").is_file() or (folder / "conda-meta").is_dir()


def _of(env: Path, why: str) -> Target:
    env = env.absolute()  # not resolved: the name that the user knows
    places = [env / "bin" / "python", env / "Scripts" / "python.exe", env / "python.exe"]
    python = next((path for path in places if path.exists()), places[1 if sys.platform == "win32" else 0])
    return Target(python=python, env=env, kind="conda" if (env / "conda-meta").is_dir() else "venv", why=why)


def _around(python: Path, why: str) -> Target:
    for folder in (python.parent.parent, python.parent):
        if _is_environment(folder):
            kind = "conda" if (folder / "conda-meta").is_dir() else "venv"
            return Target(python=python, env=folder, kind=kind, why=why)  # type: ignore[arg-type]
    return Target(python=python, why=why)
