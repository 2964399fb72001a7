"""Reading one root of a model repository: which folders are models, and why the others are refused.

Nothing that lies in a root is trusted: links are not followed, only regular files are opened, and no more is read
than the manifest may be long.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlenv.errors import ModelInvalid, RepositoryError
from dlenv_models._check import show
from dlenv_models.manifest import WEIGHTS, FileInfo, Manifest, model_name

MANIFEST = "manifest.json"
MAX_MANIFEST = 8 * 1024**2  # bytes; the confusion matrix of 1,000 classes takes about 3 MB

_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Entry:
    """One version of one model as it lies in a repository.

    ``manifest`` is None exactly where ``problem`` says why the model is refused. ``version`` is 0 where the whole
    folder of a model is refused.
    """

    name: str
    version: int
    path: Path
    shipped: bool
    manifest: Manifest | None
    problem: str | None


def check_root(root: Path) -> None:
    """Raise ``RepositoryError`` unless ``root`` is a folder that is empty or holds ``<name>/<version>/``."""
    try:
        folders = [path for path in root.iterdir() if not path.name.startswith(".")]
    except FileNotFoundError:
        raise RepositoryError(
            f"there is no model repository at {root}; `dlenv train ... --repository {root}` makes one"
        ) from None
    except NotADirectoryError:
        raise RepositoryError(
            f"{root} is a file, not a model repository; name the folder that holds the models"
        ) from None
    except OSError as error:
        raise RepositoryError(f"the model repository {root} can't be read: {error.strerror}") from None
    if folders and not any(_looks_like_a_model(path) for path in folders):
        raise RepositoryError(
            f"{root} is not a model repository: it holds other things, but no <name>/<version>/{MANIFEST}; "
            "name the folder above the models' own, or an empty one"
        )


def scan(root: Path, shipped: bool) -> Iterator[Entry]:
    """Every model version under ``root``, good or refused; a missing root holds none.

    Hidden folders (half-published models) and folders that are no version number are passed over.
    """
    try:
        folders = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return
    except OSError as error:
        raise RepositoryError(f"the model repository {root} can't be read: {error.strerror}") from None
    for folder in folders:
        if folder.is_symlink() and not shipped:
            yield Entry(
                folder.name, 0, folder, shipped, None, "its folder is a symbolic link, which may leave the root"
            )
            continue
        try:
            versions = [path for path in folder.iterdir() if _VERSION.fullmatch(path.name)]
        except NotADirectoryError:
            continue
        except OSError as error:
            yield Entry(folder.name, 0, folder, shipped, None, f"its folder can't be read ({error.strerror})")
            continue
        for path in versions:
            yield _entry(folder.name, path, shipped)


def highest_version(root: Path, name: str) -> int:
    """The highest version of ``name`` under ``root``, good or not; 0 where there is none."""
    folder = root / name
    return max((int(path.name) for path in folder.glob("*") if _VERSION.fullmatch(path.name)), default=0)


def read_weights(entry: Entry, expected: FileInfo) -> bytes:
    """The bytes of the weights, read once, after which size and SHA-256 are as expected; else ``ValueError``."""
    data = _read(entry.path / WEIGHTS, expected.bytes, follow=entry.shipped)
    if len(data) != expected.bytes:
        raise ValueError(f"{WEIGHTS} has not the {expected.bytes} bytes of the manifest, so it was cut off or changed")
    if (digest := hashlib.sha256(data).hexdigest()) != expected.sha256:
        raise ValueError(f"{WEIGHTS} has the SHA-256 {digest}, not the manifest's {expected.sha256}: it was changed")
    return data


def _looks_like_a_model(path: Path) -> bool:
    try:
        return any(_VERSION.fullmatch(item.name) for item in path.iterdir())
    except NotADirectoryError:
        return False
    except OSError:  # one unreadable model must not take the others away; listing says what is wrong with it
        return True


def _entry(name: str, path: Path, shipped: bool) -> Entry:
    version = int(path.name)
    try:
        manifest = _manifest(name, version, path, shipped)
    except (ModelInvalid, ValueError) as error:
        return Entry(name, version, path, shipped, None, str(error))
    return Entry(name, version, path, shipped, manifest, None)


def _manifest(name: str, version: int, path: Path, shipped: bool) -> Manifest:
    model_name(name, "folder")
    if path.is_symlink() and not shipped:
        raise ValueError("its folder is a symbolic link, which may leave the root")
    data = _read(path / MANIFEST, MAX_MANIFEST, follow=shipped)
    if len(data) > MAX_MANIFEST:
        raise ValueError(f"{MANIFEST} is longer than {MAX_MANIFEST} bytes")
    try:
        value = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{MANIFEST} is not JSON ({error})") from None
    manifest = Manifest.from_json(value)
    for key, written, right in (("name", manifest.name, name), ("version", manifest.version, version)):
        if written != right:
            raise ValueError(f"{MANIFEST}: {key} is {show(written)}, but the folder says {show(right)}")
    return manifest


def _read(path: Path, limit: int, *, follow: bool) -> bytes:
    """At most ``limit + 1`` bytes of the regular file ``<root>/<name>/<version>/<file>``.

    Below the root nothing may be a link, unless ``follow``.
    """
    # O_NONBLOCK: opening a named pipe must not wait for its writer. Neither flag exists on Windows.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not follow and path.is_symlink():
        raise ValueError(f"{path.name} is a symbolic link, which may leave the root")
    try:
        with os.fdopen(os.open(path, flags) if follow else _open_below_root(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError(f"{path.name} is not a regular file")
            return file.read(limit + 1)
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing, so the model was not published whole") from None
    except OSError as error:
        raise ValueError(f"{path.name} can't be read ({error.strerror})") from None


def _open_below_root(path: Path, flags: int) -> int:
    """Open folder by folder, each in the one before, so that a link put there after all was looked at leads nowhere."""
    if os.open not in os.supports_dir_fd:  # Windows
        return os.open(path, flags)
    descriptor = os.open(path.parents[2], os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in path.parts[-3:-1]:
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        return os.open(path.name, flags | os.O_NOFOLLOW, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is not a JSON number")
