"""The wheels of a resolution for one machine: chosen, and fetched into a folder."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import msgspec

from dlenv.errors import DataError, SetupError
from dlenv.network.download import Fetched, Report, digest, fetch
from dlenv.network.progress import DownloadProgress
from dlenv.setup.offline import WHEELS, File
from dlenv.setup.targets import Target

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Wheel(msgspec.Struct, frozen=True, kw_only=True):
    """One wheel of a lock."""

    name: str  # the file's
    url: str
    sha256: str | None
    size: int | None  # bytes, where the index states it


def chosen(lock: Path, target: Target) -> list[Wheel]:
    """The wheel of each package in a ``pylock.toml`` that fits ``target`` best.

    Raises ``SetupError`` naming the packages that have none.
    """
    found, absent = [], []
    for entry in tomllib.loads(lock.read_text(encoding="utf-8"))["packages"]:
        offered = {wheel.name: wheel for wheel in (_wheel(data, lock) for data in entry.get("wheels", []))}
        if best := target.best(offered):
            found.append(offered[best])
        else:
            absent.append(f"{entry['name']} {entry['version']}")
    if absent:
        raise SetupError(
            f"no wheel that runs on {target.platform} with Python {target.python} is there of {', '.join(absent)}"
        )
    return found


def fetched(wanted: Sequence[Wheel], folder: Path) -> list[File]:
    """All of ``wanted`` in ``folder``'s wheels; what is there with the right hash is kept.

    Raises ``Unreachable`` where one can't be had, ``DataError`` where the folder can't be written.
    """
    files = []
    sizes = {wheel.name: wheel.size or 0 for wheel in wanted}
    total = sum(sizes.values()) if all(sizes.values()) else None
    done = 0
    with DownloadProgress("Wheels") as progress:
        for number, wheel in enumerate(wanted, 1):
            progress.rename(f"Wheel {number} of {len(wanted)}")
            got = _fetched(wheel, folder / WHEELS / wheel.name, _shifted(progress, done, total))
            done += got.size
            progress(done, total)
            files.append(File(path=f"{WHEELS}/{wheel.name}", size=got.size, sha256=got.sha256))
    return files


def _wheel(data: dict[str, Any], lock: Path) -> Wheel:
    """A wheel as PEP 751 describes it: by address or path, the name where that does not end with it."""
    url = data.get("url") or (lock.parent / data["path"]).resolve().as_uri()
    name = data.get("name") or unquote(urlsplit(url).path).rpartition("/")[2]
    return Wheel(name=name, url=url, sha256=data.get("hashes", {}).get("sha256"), size=data.get("size"))


def _shifted(progress: Report, before: int, total: int | None) -> Report:
    return lambda done, _: progress(before + done, total)


def _fetched(wheel: Wheel, target: Path, progress: Report) -> Fetched:
    if urlsplit(wheel.url).scheme == "file":  # from an index in a folder
        path = Path(url2pathname(urlsplit(wheel.url).path))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = target.with_name(f"{target.name}.tmp")
            shutil.copyfile(path, scratch)
            sha256 = digest(scratch)
            if wheel.sha256 not in (None, sha256):
                raise DataError(f"{path} is damaged: its SHA-256 is {sha256}, not {wheel.sha256}")
            scratch.replace(target)
        except OSError as error:
            raise DataError(f"{path} can't be copied to {target} ({error.strerror})") from None
        return Fetched(path=target, url=wheel.url, sha256=sha256, size=target.stat().st_size)
    return fetch([wheel.url], target, sha256=wheel.sha256, size=wheel.size, progress=progress)
