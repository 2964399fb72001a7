"""Which environment is examined."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from dlenv.doctor.facts import Target
from dlenv.environment.layout import is_conda_root
from dlenv.errors import UsageError

__all__ = ["choose"]


def choose(env: Path | None, python: Path | None, environ: Mapping[str, str], folder: Path) -> Target:
    """What the user names; else the active environment, ``.venv`` in ``folder``, the Python that runs dlenv.

    Of conda's own installation, being active does not count where one of the others is there.

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
    if value := environ.get("VIRTUAL_ENV"):
        return _of(Path(value), "VIRTUAL_ENV")
    conda = _of(Path(value), "CONDA_PREFIX") if (value := environ.get("CONDA_PREFIX")) else None
    # conda's installer has its base active in every shell: that says nothing of what the user works in.
    if conda and not (conda.root or environ.get("CONDA_DEFAULT_ENV") == "base"):
        return conda
    if _is_environment(folder / ".venv"):
        return _of(folder / ".venv", ".venv in the current folder")
    own = _around(Path(sys.executable), "the Python that runs dlenv")
    return conda if conda and own.env is None else own


def _is_environment(folder: Path) -> bool:
    return (folder / "pyvenv.cfg").is_file() or (folder / "conda-meta").is_dir()


def _of(env: Path, why: str) -> Target:
    env = env.absolute()  # not resolved: the name that the user knows
    places = [env / "bin" / "python", env / "Scripts" / "python.exe", env / "python.exe"]
    python = next((path for path in places if path.exists()), places[1 if sys.platform == "win32" else 0])
    conda = (env / "conda-meta").is_dir()
    return Target(python=python, env=env, kind="conda" if conda else "venv", why=why, root=is_conda_root(env))


def _around(python: Path, why: str) -> Target:
    for folder in (python.parent.parent, python.parent):
        if _is_environment(folder):
            return msgspec.structs.replace(_of(folder, why), python=python)
    return Target(python=python, why=why)
