"""A folder of the course's notebooks: what was fetched into it, what the user has changed, what it holds."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Literal

import msgspec

from dlenv import language
from dlenv.console import command_line
from dlenv.errors import DataError, UsageError
from dlenv.network.download import digest
from dlenv.notebooks import document
from dlenv.plan.model import Edition

MANIFEST = ".dlenv-notebooks.json"
State = Literal["as fetched", "edited", "yours"]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What was fetched into a folder; lies in it, so that edits are known."""

    schema: int = 1
    edition: Edition
    source: str  # address or file name of the archive
    archive: str  # its SHA-256
    files: dict[str, str]  # path with "/" -> SHA-256 as fetched
    left_out: tuple[str, ...] = ()  # notebooks that are damaged in the archive

    @staticmethod
    def read(folder: Path) -> Manifest | None:
        """The manifest of ``folder``, None where there is none; raises ``DataError`` where it can't be read."""
        path = folder / MANIFEST
        try:
            return msgspec.json.decode(path.read_bytes(), type=Manifest)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DataError(f"{path} can't be read ({error.strerror})") from None
        except msgspec.DecodeError as error:
            raise DataError(f"{path} is damaged ({error}); move the folder away and fetch again") from None

    def write(self, folder: Path) -> None:
        """Put it into ``folder``, in the place of the one that is there."""
        with tempfile.TemporaryDirectory(prefix=".dlenv-", dir=folder) as scratch:
            path = Path(scratch) / MANIFEST
            path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))
            path.replace(folder / MANIFEST)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One notebook."""

    path: str  # below the folder, with "/"
    title: str
    state: State


class Chapter(msgspec.Struct, frozen=True, kw_only=True):
    """One chapter; the notebooks that are in no chapter form the one without a name."""

    name: str
    title: str
    notebooks: tuple[Entry, ...]


def default(edition: Edition) -> Path:
    """Where the notebooks of an edition are put unless told otherwise."""
    return Path(f"d2l-{edition}")


def preferred() -> Edition:
    """The edition in the system's language, where there is one: Chinese, else English."""
    return "zh" if language.is_chinese(language.of_system()) else "en"


def fetching(edition: Edition | None = None, folder: Path | None = None) -> str:
    """The command that fetches the notebooks."""
    place = ("--notebooks", folder) if folder else ()
    return command_line("dlenv", "notebooks", "fetch", "--course", edition or preferred(), *place)


def chosen(folder: Path | None = None, edition: Edition | None = None) -> tuple[Path, Edition]:
    """Where to fetch which edition: as named, else what is here already, else as the system's language says.

    Raises ``UsageError`` where there is more than one here.
    """
    if found := _there(folder, edition):
        place, manifest = found
        return place, manifest.edition
    edition = edition or preferred()
    return folder or default(edition), edition


def find(folder: Path | None = None, edition: Edition | None = None) -> tuple[Path, Manifest]:
    """The folder of notebooks: the one that is named, else the one here or below here that dlenv has made.

    Raises ``UsageError`` where there is none, or where it could be more than one.
    """
    found = _there(folder, edition)
    if not found:
        where = f"in {folder}" if folder else "here"
        raise UsageError(f"there are no notebooks of dlenv's {where}; get them by: {fetching(edition)}")
    return found


def chapters(folder: Path, manifest: Manifest) -> list[Chapter]:
    """What the folder holds, in the book's order."""
    paths = [path.relative_to(folder) for path in folder.rglob("*.ipynb")]
    by_chapter: dict[str, list[Path]] = {}
    for path in paths:
        if not any(part.startswith(".") for part in path.parts):
            by_chapter.setdefault(path.parts[0] if len(path.parts) > 1 else "", []).append(path)
    order = _order(folder / "index.ipynb")
    names = sorted(by_chapter, key=lambda name: (name != "", order.get(f"{name}/index", len(order)), name))
    return [_chapter(folder, manifest, name, by_chapter[name]) for name in names]


def missing(folder: Path, manifest: Manifest) -> list[str]:
    """What was fetched and is not there any more."""
    return [name for name in manifest.files if not os.path.lexists(folder / name)]


def _there(folder: Path | None, edition: Edition | None) -> tuple[Path, Manifest] | None:
    editions: tuple[Edition, ...] = (edition,) if edition else ("zh", "en")
    places = [folder] if folder else [Path(), *(default(name) for name in editions)]
    found = [(place, manifest) for place in places if (manifest := Manifest.read(place))]
    found = [(place, manifest) for place, manifest in found if manifest.edition in editions]
    if len(found) > 1:
        raise UsageError(f"there are {' and '.join(str(place) for place, _ in found)}; name one by --notebooks")
    return found[0] if found else None


def _chapter(folder: Path, manifest: Manifest, name: str, paths: list[Path]) -> Chapter:
    order = _order(folder / name / "index.ipynb")
    start = Path(name)
    key = {path: path.relative_to(start).with_suffix("").as_posix() for path in paths}
    paths = sorted(paths, key=lambda path: (key[path] != "index", order.get(key[path], len(order)), key[path]))
    entries = tuple(_entry(folder, manifest, path) for path in paths)
    title = next((entry.title for entry in entries if entry.path.endswith("index.ipynb")), name)
    return Chapter(name=name, title=title, notebooks=entries)


def _entry(folder: Path, manifest: Manifest, path: Path) -> Entry:
    name = path.as_posix()
    notebook = document.read(folder / path)
    fetched = manifest.files.get(name)
    state: State = "yours"
    if fetched is not None:
        state = "as fetched" if digest(folder / path) == fetched else "edited"
    return Entry(path=name, title=(notebook and notebook.title) or path.stem, state=state)


def _order(index: Path) -> dict[str, int]:
    notebook = document.read(index) if index.is_file() else None
    return {name: number for number, name in enumerate(notebook.links)} if notebook else {}
