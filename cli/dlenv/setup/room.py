"""Whether what is to be installed fits on the disks, told before it is downloaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec
from rich.filesize import decimal

from dlenv.errors import SetupError
from dlenv.managers import uv

# Unpacked bytes for each of a wheel's: torch 2.15.0 with CUDA 13 from PyPI, the 22 largest packages of an
# environment with it, 3.19 GB of wheels and 6.01 GB installed (Linux, 2026-11-21). Without CUDA's libraries it is
# about 3, of a fifth of that.
_UNPACKED = 1.9


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A folder to be filled, and its disk."""

    path: Path
    free: int  # bytes
    device: int  # st_dev


def check(size: int, env: Path, variables: Mapping[str, str]) -> str | None:
    """What to warn of, where wheels of ``size`` bytes may not fit into ``env`` and uv's cache.

    ``variables`` are uv's. Raises ``SetupError`` where they certainly don't fit.
    """
    try:
        cache = Path(uv.run(["cache", "dir"], variables).strip())
        places = _place(env), _place(cache)
        # https://docs.astral.sh/uv/concepts/cache/: there lie the wheels, unpacked.
        is_empty = not any(cache.glob("archive-v*/*"))
    except (OSError, uv.Failed):  # then the installation will tell
        return None
    return judge(size, *places, is_empty=is_empty)


def judge(size: int, env: Place, cache: Place, *, is_empty: bool) -> str | None:
    """The same, of disks that are known; ``is_empty``: there are no wheels in the cache.

    uv unpacks wheels as they come into its cache, and links the environment's files to those there: they are copied
    where that is on another disk (https://docs.astral.sh/uv/reference/settings/#link-mode).
    """
    needed = round(size * _UNPACKED)
    elsewhere = "name a folder on another by UV_CACHE_DIR"
    if env.device == cache.device:
        places = [(env, is_empty, f"choose another --env and {elsewhere}, too")]
    else:
        places = [(env, True, "choose another --env"), (cache, is_empty, elsewhere)]
    warning = None
    for place, is_certain, other in places:
        if place.free >= needed:
            continue
        text = (
            f"the packages take about {decimal(needed)} of disk ({decimal(size)} to download), and on that of "
            f"{place.path} there are {decimal(place.free)} free"
        )
        if is_certain and place.free < size:
            raise SetupError(f"{text}; make room there, or {other}")
        doubt = ", which may not be enough" if is_certain else ": not enough, unless uv has most of them cached"
        warning = warning or text + doubt
    return warning


def _place(path: Path) -> Place:
    """``path``, or what will hold it, as it is now; raises ``OSError``."""
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if os.path.lexists(folder))
    return Place(path=path, free=shutil.disk_usage(there).free, device=there.stat().st_dev)
