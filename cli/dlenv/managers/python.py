"""A Python interpreter of a wanted version: one that this machine has, or one that uv downloads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dlenv.errors import SetupError
from dlenv.machine.model import Machine
from dlenv.managers import uv
from dlenv.network.http import public

# Machines that PyTorch has wheels for, in uv's words: system, architecture and C library (on Linux the one there is).
_PLATFORMS = {
    ("linux", "x86_64"): "linux-x86_64",
    ("linux", "aarch64"): "linux-aarch64",
    ("windows", "x86_64"): "windows-x86_64-none",
    ("macos", "arm64"): "macos-aarch64-none",
    ("macos", "x86_64"): "macos-x86_64-none",
}


def platform(machine: Machine) -> str:
    """What an interpreter for ``machine`` is made for, in uv's words; "" where PyTorch has no wheels for it."""
    return _PLATFORMS.get((machine.os, machine.arch), "")


def find(version: str, platform: str = "", extra: Mapping[str, str] = {}) -> Path | None:
    """An interpreter of ``version`` ("3.11") for ``platform`` (see `platform`; "": any) on this machine, or None.

    uv looks at what it manages, the path and the registry. pyenv's shims on the path answer only for the version that
    is selected, so its versions are put before them.
    """
    path = os.pathsep.join([*_pyenv(version), os.environ.get("PATH", os.defpath)])
    words = ["python", "find", "--no-project", "--no-python-downloads", "--system", _request(version, platform)]
    try:
        found = uv.run(words, {**extra, "PATH": path})
    except uv.Failed:
        return None
    return Path(found.strip())


def get(version: str, sources: Sequence[Mapping[str, str]], platform: str = "") -> Path:
    """An interpreter of ``version`` for ``platform``: found here, or downloaded with the environments ``sources``.

    They are tried in order. Raises ``SetupError`` with what each source said.
    """
    if found := find(version, platform):
        return found
    failures = []
    for extra in sources:
        try:
            uv.run(["python", "install", "--no-bin", _request(version, platform)], extra, show=True)
        except uv.Failed as error:
            place = extra.get("UV_PYTHON_INSTALL_MIRROR")
            failures.append(f"{public(place) if place else 'the official source'}: {error}")
            continue
        if found := find(version, platform, extra):
            return found
    raise SetupError(
        f"there is no Python {version}{f' for {platform}' if platform else ''} on this machine, and it could not be "
        f"downloaded ({'; '.join(failures) or 'offline'}); "
        f"install Python {version}, or name another version by --python"
    )


def _request(version: str, platform: str) -> str:
    # With the platform: else uv takes a 32-bit Python that is first on the path, and where dlenv itself runs emulated
    # (Rosetta 2) it takes that for the machine's own (https://docs.astral.sh/uv/concepts/python-versions/).
    return f"cpython-{version}-{platform}" if platform else version


def _pyenv(version: str) -> list[str]:
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    return sorted(str(folder) for folder in root.glob(f"versions/{version}.*/bin"))
