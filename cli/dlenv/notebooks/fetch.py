"""Fetching the course's notebooks: from the official archive, else from the repository that holds the same ones."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from dlenv import folders
from dlenv.catalog.courses import Recipe, courses
from dlenv.console import say
from dlenv.errors import DataError, Unreachable, UsageError
from dlenv.network import download
from dlenv.network.http import check_address, public
from dlenv.network.progress import DownloadProgress
from dlenv.notebooks.folder import Manifest, fetching, missing
from dlenv.notebooks.source import extract
from dlenv.plan.model import Edition

# The official archives hold the notebooks of four frameworks; a repository's has about 45 MB.
_LIMIT = 1 << 30
# Where a fetch unpacks before anything takes its place.
_SCRATCH = ".dlenv-notebooks-"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of fetching; paths are below the folder, with "/"."""

    folder: Path
    source: str  # address or file name of the archive
    added: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()  # edited by the user, and other than in the archive
    left_out: tuple[str, ...] = ()  # notebooks that are damaged in the archive


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    """An archive as it was when it was first fetched."""

    sha256: str
    size: int
    url: str
    date: str


def fetch_notebooks(
    edition: Edition,
    folder: Path,
    *,
    archive: Path | None = None,
    mirror: str | None = None,
    accept_changed: bool = False,
    refresh: bool = False,
    recipe: Recipe | None = None,
    log: Callable[[str], None] = say,
) -> Result:
    """Put the notebooks of ``edition`` into ``folder``, from ``archive`` if one is given, else from the network.

    Nothing is done where all that was fetched earlier is there, unless ``refresh``. A folder that dlenv has made
    gets what is missing, and newer versions of what the user has not edited; any other folder has to be missing or
    empty. ``mirror`` is the address of an archive, or of a folder that has it, and the only one that is asked then.
    An archive that is not as it was first fetched is refused unless ``accept_changed``.

    Raises ``UsageError`` where the folder can't be taken or ``mirror`` is no address, ``Unreachable`` where no address
    gave an archive, ``ArchiveRefused`` or ``DataError`` where an archive or the folder can't be used.
    """
    if mirror:
        check_address(mirror, "--mirror")
    before = check(edition, folder)
    same = archive is None or (before is not None and archive.is_file() and download.digest(archive) == before.archive)
    if before and same and not refresh and not missing(folder, before):
        return Result(folder=folder, source=before.source, left_out=before.left_out)
    recipe = recipe or courses()[edition]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Inside a folder that is there: it may be a link or a mount, and the one above it not ours to write.
        around = folder if folder.exists() else folder.parent
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=around) as scratch:
            fresh = Path(scratch) / "notebooks"
            manifest = (
                _from_file(edition, recipe, archive, fresh)
                if archive
                else _from_network(edition, recipe, mirror, accept_changed, fresh, log, fetching(edition, folder))
            )
            return _put(fresh, folder, manifest, before)
    except OSError as error:
        raise DataError(f"the notebooks can't be put into {folder} ({error.strerror or error})") from None


def check(edition: Edition, folder: Path) -> Manifest | None:
    """The manifest of ``folder``, None where it is to be made; raises ``UsageError`` where it is somebody else's."""
    manifest = Manifest.read(folder)
    if manifest and manifest.edition != edition:
        raise UsageError(f"{folder} holds the edition {manifest.edition}; name another folder by --notebooks")
    if manifest is None and os.path.lexists(folder) and not _is_free(folder):
        raise UsageError(f"{folder} is there and was not made by dlenv; name another folder by --notebooks")
    return manifest


def _is_free(folder: Path) -> bool:
    """Whether it is a folder with nothing in it, but for what a fetch that was killed has left."""
    try:
        return folder.is_dir() and all(path.name.startswith(_SCRATCH) for path in folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} can't be read ({error.strerror}); name another folder by --notebooks") from None


def _from_file(edition: Edition, recipe: Recipe, archive: Path, fresh: Path) -> Manifest:
    left_out = extract(archive, fresh, at_least=recipe.count)
    return _manifest(edition, archive.name, download.digest(archive), fresh, left_out)


def _from_network(
    edition: Edition,
    recipe: Recipe,
    mirror: str | None,
    accept_changed: bool,
    fresh: Path,
    log: Callable[[str], None],
    again: str,
) -> Manifest:
    failures: list[str] = []
    for name, urls in _addresses(recipe, mirror):
        key = f"{edition}/{name}"
        known = None if accept_changed else _known().get(key)
        target = folders.cache() / "notebooks" / edition / name
        try:
            with DownloadProgress(name) as progress:
                fetched = download.fetch(
                    urls,
                    target,
                    sha256=known.sha256 if known else None,
                    limit=_LIMIT,
                    progress=progress,
                    log=log,
                )
        except Unreachable as error:
            if known and error.wrong:
                raise DataError(
                    f"{error.wrong[0]} is not the archive that was fetched on {known.date} ({error}); "
                    "if the course has published a new one, take it by --accept-changed"
                ) from None
            hosts = [(urlsplit(url).netloc.rpartition("@")[2], why) for url, why in error.failures]
            failures += [f"{host} ({why})" for host, why in hosts] or [str(error)]
            continue
        try:
            left_out = extract(target, fresh, at_least=recipe.count)
        except DataError as error:
            log(f"{error}; it is thrown away")
            target.unlink(missing_ok=True)
            failures.append(str(error))
            continue
        source = public(fetched.url) if fetched.url else known.url if known else name
        if known is None:
            _remember(key, fetched, source)
        return _manifest(edition, source, fetched.sha256, fresh, left_out)
    raise Unreachable(
        f"the notebooks can't be had: {'; '.join(dict.fromkeys(failures))}; try again later, or from a mirror "
        f"or a file that you have: {again} --mirror URL (or --from FILE)"
    )


def _addresses(recipe: Recipe, mirror: str | None) -> list[tuple[str, list[str]]]:
    """Names of archives in the order to be tried, each with its addresses: one name, one content."""
    official = [*recipe.notebooks, recipe.repository]
    if mirror and _name(mirror).endswith((".zip", ".tar.gz", ".tgz")):
        return [(_name(mirror), [mirror])]
    names: dict[str, list[str]] = {}
    for url in official:
        names.setdefault(_name(url), []).append(f"{mirror.rstrip('/')}/{_name(url)}" if mirror else url)
    return [(name, list(dict.fromkeys(urls))) for name, urls in names.items()]


def _name(url: str) -> str:
    return urlsplit(url).path.rpartition("/")[2]


def _manifest(edition: Edition, source: str, sha256: str, fresh: Path, left_out: Sequence[str]) -> Manifest:
    files = sorted(path for path in fresh.rglob("*") if path.is_file())
    return Manifest(
        edition=edition,
        source=source,
        archive=sha256,
        files={path.relative_to(fresh).as_posix(): download.digest(path) for path in files},
        left_out=tuple(left_out),
    )


def _put(fresh: Path, folder: Path, manifest: Manifest, before: Manifest | None) -> Result:
    """Move what is fresh into ``folder``, leaving alone what the user has edited."""
    if before is None:
        if folder.exists():  # it may be somebody's working directory, a link or a mount: filled, not replaced
            manifest.write(folder)  # first, so that what an interruption leaves is known as ours
            for path in fresh.iterdir():
                path.replace(folder / path.name)
        else:
            manifest.write(fresh)
            fresh.replace(folder)
        return Result(folder=folder, source=manifest.source, added=tuple(manifest.files), left_out=manifest.left_out)
    added, updated, kept = [], [], []
    for name, new in manifest.files.items():
        target = folder / name
        if not target.exists():
            added.append(name)
        elif not target.is_file() or (old := download.digest(target)) not in (new, before.files.get(name)):
            kept.append(name)
            continue
        elif old == new:
            continue
        else:
            updated.append(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        (fresh / name).replace(target)
    # An edited file is still measured by what it was edited from: whoever undoes the edit gets updates again.
    edited = {name: before.files[name] for name in kept if name in before.files}
    msgspec.structs.replace(manifest, files={**before.files, **manifest.files, **edited}).write(folder)
    return Result(
        folder=folder,
        source=manifest.source,
        added=tuple(added),
        updated=tuple(updated),
        kept=tuple(kept),
        left_out=manifest.left_out,
    )


def _known() -> dict[str, _Known]:
    path = folders.data() / "notebooks.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, _Known])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"{path} can't be read ({error}); what archives were like is kept there") from None


def _remember(key: str, fetched: download.Fetched, url: str) -> None:
    path = folders.data() / "notebooks.json"
    date = datetime.now(tz=timezone.utc).date().isoformat()
    known = {**_known(), key: _Known(sha256=fetched.sha256, size=fetched.size, url=url, date=date)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".dlenv-", dir=path.parent) as scratch:
        fresh = Path(scratch) / path.name
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(known), indent=1))
        fresh.replace(path)
