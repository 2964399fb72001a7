"""What is installed in an environment, read from its folders: nothing is imported, no Python is started.

Formats: the binary distribution format's ``.dist-info`` (https://packaging.python.org/specifications/core-metadata/,
https://packaging.python.org/specifications/recording-installed-packages/), setuptools' older ``.egg-info``, and conda's
``conda-meta``.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from packaging.utils import canonicalize_name

__all__ = ["CondaPackage", "Distribution", "conda_packages", "installed", "site_packages"]


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """One installed copy of a package; an environment may hold several of one name."""

    name: str  # canonical: "ruamel-yaml"
    version: str | None  # None where its metadata can't be read
    location: str  # the entry of sys.path that it was found in
    metadata: str  # its .dist-info or .egg-info
    installer: str | None = None  # "pip", "uv", "conda": who installed it, where it says so
    requires: tuple[str, ...] = ()  # requirements as they are declared: "numpy>=1.26 ; extra == 'all'"
    requires_python: str | None = None

    def files(self) -> Iterator[Path]:
        """The files that it was installed with, by its ``RECORD``; none where it has none."""
        try:
            with Path(self.metadata, "RECORD").open(encoding="utf-8", newline="") as file:
                for row in csv.reader(file):
                    if row and row[0]:
                        yield Path(self.location, row[0])
        except (OSError, UnicodeDecodeError, csv.Error):
            return

    def missing_files(self) -> list[Path]:
        """The recorded files that are gone. Compiled bytecode does not count: Python makes it again."""
        return [path for path in self.files() if path.suffix != ".pyc" and not path.exists()]


class CondaPackage(msgspec.Struct, frozen=True, kw_only=True):
    """A package that conda installed into a prefix."""

    name: str
    version: str
    build: str = ""
    channel: str = ""


def installed(paths: Iterable[str | Path]) -> tuple[Distribution, ...]:
    """Every distribution on these entries of ``sys.path``, in their order: of several copies Python takes the first.

    Entries that are no folders, or can't be read, hold none; two names of one folder (``lib64``) count once.
    """
    found: list[Distribution] = []
    seen = set()
    for path in paths:
        folder = os.path.realpath(path or ".")
        if folder in seen:
            continue
        seen.add(folder)
        try:
            names = sorted(entry.name for entry in Path(folder).iterdir())
        except OSError:
            continue
        found += [_read(str(path), name) for name in names if name.endswith((".dist-info", ".egg-info"))]
    return tuple(found)


def site_packages(env: Path) -> tuple[Path, ...]:
    """The folders that an environment installs packages into, found without its Python."""
    return (*sorted(env.glob("lib/python3.*/site-packages")), *env.glob("Lib/site-packages"))


def conda_packages(prefix: Path) -> tuple[CondaPackage, ...]:
    """What conda's own list says that it installed into ``prefix``; empty where that is no conda environment."""
    packages = []
    for path in sorted(prefix.glob("conda-meta/*.json")):
        try:
            packages.append(msgspec.json.decode(path.read_bytes(), type=CondaPackage))
        except (OSError, msgspec.MsgspecError):
            continue
    return tuple(packages)


def _read(location: str, name: str) -> Distribution:
    metadata = Path(location, name)
    # A wheel's folder has METADATA, an egg's PKG-INFO; distutils made the file itself.
    headers = next(filter(None, (_headers(metadata / part) for part in ("METADATA", "PKG-INFO"))), [])
    fields = dict(reversed(headers or _headers(metadata)))
    stem, _, version = name.rpartition(".")[0].partition("-")
    return Distribution(
        name=canonicalize_name(fields.get("name") or stem),
        version=fields.get("version") or (version.partition("-")[0] or None if headers else None),
        location=location,
        metadata=str(metadata),
        installer=_first_line(metadata / "INSTALLER"),
        requires=tuple(value for key, value in headers if key == "requires-dist"),
        requires_python=fields.get("requires-python"),
    )


def _headers(path: Path) -> list[tuple[str, str]]:
    """The headers before the first empty line; the description after it can be long."""
    headers = []
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if not line.strip():
                    break
                key, colon, value = line.partition(":")
                if colon and not line[0].isspace():
                    headers.append((key.lower(), value.strip()))
    except OSError:
        return []
    return headers


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().partition("\n")[0] or None
    except OSError:
        return None
