"""What is taken of an archive of the course: the PyTorch edition's notebooks, and the pictures that they show."""

from __future__ import annotations

import re
from pathlib import Path

from dlenv.errors import DataError
from dlenv.network.archive import names, unpack
from dlenv.notebooks.document import read, without_installation

_NOTEBOOK = re.compile(r"((?:.*/)?)(chapter_[^/]+/[^/]+\.ipynb)")


def extract(archive: Path, folder: Path, *, at_least: int = 1) -> list[str]:
    """Unpack the PyTorch edition into ``folder``, which does not exist; the notebooks that are damaged and left out.

    The archive is the official one (a folder for each framework) or that of a repository (one folder around
    everything). ``folder`` then holds the chapters' folders, and ``img`` with the pictures that are used.

    Raises ``ArchiveRefused``, and ``DataError`` where there are fewer than ``at_least`` notebooks.
    """
    members = [name for name in names(archive) if not _litter(name)]
    notebooks, images = _prefixes(members, archive)

    def notebook(name: str) -> str | None:
        wanted = name.startswith(notebooks) and name.endswith(".ipynb") and not _litter(name)
        return name.removeprefix(notebooks) if wanted else None

    def image(name: str) -> str | None:
        wanted = name.startswith(images) and (short := name.removeprefix(images)) in used
        return short if wanted else None

    damaged, used, count = [], set(), 0
    for name in unpack(archive, folder, members=notebook):
        path = folder / name
        if (document := read(path)) is None:
            damaged.append(name)
            path.unlink()
            continue
        count += 1
        used |= document.images
        content = path.read_bytes()
        if (without := without_installation(content)) != content:
            path.write_bytes(without)
    # Only what is shown: the repository of the Chinese edition has pictures whose names differ only by case.
    if any(image(name) for name in members):
        unpack(archive, folder / "img", members=image)
    if count < at_least:
        raise DataError(f"{archive.name} holds {count} notebooks, not {at_least} or more: it is not the whole course")
    return damaged


def _prefixes(members: list[str], archive: Path) -> tuple[str, str]:
    """What comes before the chapters' folders in the archive, and before the pictures."""
    found = {match[1] for name in members if (match := _NOTEBOOK.fullmatch(name))}
    pytorch = [prefix for prefix in found if prefix.rstrip("/").rpartition("/")[2] == "pytorch"]
    chosen = pytorch or list(found)
    if len(chosen) != 1:
        what = "more than one edition" if chosen else "no chapters"
        raise DataError(f"{archive.name} is no archive of the course's PyTorch edition: it has {what}")
    notebooks = chosen[0]
    above = re.sub(r"pytorch/$", "", notebooks)
    inside = any(name.startswith(f"{notebooks}img/") for name in members)
    return notebooks, f"{notebooks if inside else above}img/"


def _litter(name: str) -> bool:
    """What macOS and editors leave in archives."""
    parts = name.split("/")
    return parts[0] == "__MACOSX" or any(part.startswith("._") or part == ".ipynb_checkpoints" for part in parts)
