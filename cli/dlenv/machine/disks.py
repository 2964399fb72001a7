"""Room on the disks where something of ours will be written."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from dlenv.machine.model import Disk
from dlenv.machine.reading import attempt, clean, exists

Purpose = Literal["environment", "temporary", "cache", "shared-memory"]

_MIB = 2**20


def look(env: Path | None, root: Path, environ: Mapping[str, str]) -> tuple[Disk, ...]:
    """Where the environment ``env`` (if any), temporary files and downloads go, and the shared memory of ``root``.

    A folder that is not there yet has the room of its nearest parent that is.
    """
    temporary = attempt(lambda: _temporary(environ), None)
    cache = attempt(lambda: _cache(environ), None)
    found = (
        _disk("environment", env),
        _disk("temporary", temporary),
        _disk("cache", cache),
        _disk("shared-memory", root / "dev/shm" if exists(root / "dev/shm") else None),
    )
    return tuple(disk for disk in found if disk)


def _disk(purpose: Purpose, folder: Path | None) -> Disk | None:
    return attempt(lambda: _measure(purpose, folder), None) if folder else None


def _measure(purpose: Purpose, folder: Path) -> Disk:
    folder = folder.absolute()
    place = next(it for it in (folder, *folder.parents) if exists(it))
    usage = shutil.disk_usage(place)
    return Disk(
        purpose=purpose,
        path=clean(str(folder)),
        free_mib=usage.free // _MIB,
        total_mib=usage.total // _MIB,
        device=place.stat().st_dev,
    )


def _temporary(environ: Mapping[str, str]) -> Path:
    # The order of tempfile.gettempdir, which looks at this process's variables only.
    given = (environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    return Path(next(filter(None, given), None) or tempfile.gettempdir())


def _cache(environ: Mapping[str, str]) -> Path:
    """uv's cache, where the downloads go: https://docs.astral.sh/uv/concepts/cache/#cache-directory."""
    if given := environ.get("UV_CACHE_DIR"):
        return Path(given)
    if sys.platform == "win32":
        return Path(environ["LOCALAPPDATA"]) / "uv" / "cache"
    if xdg := environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "uv"
    return Path(environ.get("HOME") or Path.home()) / ".cache" / "uv"
