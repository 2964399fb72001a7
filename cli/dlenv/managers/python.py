"""A Python interpreter of a wanted version: one that this machine has, or one that uv downloads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dlenv.errors import SetupError
from dlenv.managers import uv


def find(version: str, extra: Mapping[str, str] = {}) -> Path | None:
    """An interpreter of ``version`` ("3.11") on this machine, or None.

    uv looks at what it manages, the path and the registry. pyenv's shims on the path answer only for the version that
    is selected, so its versions are put before them.
    """
    path = os.pathsep.join([*_pyenv(version), os.environ.get("PATH", os.defpath)])
    try:
        found = uv.run(
            ["python", "find", "--no-project", "--no-python-downloads", "--system", version], {**extra, "PATH": path}
        )
    except uv.Failed:
        return None
    return Path(found.strip())


def get(version: str, sources: Sequence[Mapping[str, str]]) -> Path:
    """An interpreter of ``version``: found here, or downloaded with the environments ``sources``, tried in order.

    Raises ``SetupError`` with what each source said.
    """
    if found := find(version):
        return found
    failures = []
    for extra in sources:
        try:
            uv.run(["python", "install", "--no-bin", version], extra, show=True)
        except uv.Failed as error:
            failures.append(f"{extra.get('UV_PYTHON_INSTALL_MIRROR', 'the official source')}: {error}")
            continue
        if found := find(version, extra):
            return found
    raise SetupError(
        f"there is no Python {version} on this machine, and it could not be downloaded "
        f"({'; '.join(failures) or 'offline'}); "
        f"install Python {version}, or name another version by --python"
    )


def _pyenv(version: str) -> list[str]:
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    return sorted(str(folder) for folder in root.glob(f"versions/{version}.*/bin"))
