"""The archive that uv installs a Python from (python-build-standalone), for any machine."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

import msgspec

from dlenv.errors import DataError, SetupError, Unreachable
from dlenv.managers import uv
from dlenv.network.download import digest, fetch
from dlenv.network.progress import DownloadProgress
from dlenv.setup.offline import PYTHON, File
from dlenv.setup.targets import Target

# What UV_PYTHON_INSTALL_MIRROR replaces (documentation of uv, settings, python-install-mirror).
_GITHUB = "https://github.com/astral-sh/python-build-standalone/releases/download"
# Where uv itself looks first: uv python list --only-downloads --show-urls, uv 0.13.9.
_ASTRAL = "https://releases.astral.sh/github/python-build-standalone/releases/download"
_MIRROR = "UV_PYTHON_INSTALL_MIRROR"
_SUMS = "SHA256SUMS"  # of every file of a release, beside them


class _Download(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``uv python list --output-format json``."""

    url: str = ""
    os: str
    arch: str
    libc: str
    implementation: str
    variant: str
    version: str


def fetched(target: Target, mirrors: Sequence[Mapping[str, str]], folder: Path, log: Callable[[str], None]) -> File:
    """The interpreter's archive, below ``folder``'s Pythons as below the publisher's releases.

    ``mirrors`` are uv's variables for each place, in the order to be tried. Raises ``Unreachable`` where none of them
    gives it, ``SetupError`` where there is none for this machine.
    """
    download = _find(target)
    path = download.url.removeprefix(f"{_GITHUB}/")
    bases = [value for mirror in mirrors if (value := {**os.environ, **mirror}.get(_MIRROR))]
    bases = list(dict.fromkeys([*bases, _ASTRAL, _GITHUB]))
    urls = [f"{base.rstrip('/')}/{path}" for base in bases]
    place = folder / PYTHON / unquote(path)
    sha256 = _sum([f"{url.rpartition('/')[0]}/{_SUMS}" for url in urls], place.name)
    if sha256 is None and place.is_file():  # whole, or it would not have its name; uv checks it against its own list
        got = place
    else:
        with DownloadProgress(f"Python {download.version}") as progress:
            got = fetch(urls, place, sha256=sha256, progress=progress, log=log).path
    relative = got.relative_to(folder).as_posix()
    return File(path=relative, size=got.stat().st_size, sha256=digest(got))


def _find(target: Target) -> _Download:
    words = ["python", "list", target.python, "--only-downloads", "--all-platforms", "--all-arches"]
    try:
        # The addresses are printed with the mirror's in the place of the publisher's.
        output = uv.run([*words, "--output-format", "json"], {_MIRROR: _GITHUB})
        rows = msgspec.json.decode(output, type=list[_Download])
    except uv.Failed as error:
        raise SetupError(f"uv does not say which Pythons there are: {error}") from None
    for row in rows:
        same = (row.os, row.arch, row.libc) == target.interpreter
        if same and row.url.startswith(_GITHUB) and (row.implementation, row.variant) == ("cpython", "default"):
            return row
    raise SetupError(f"uv knows no Python {target.python} for {target.platform}")


def _sum(urls: Sequence[str], name: str) -> str | None:
    """The SHA-256 of the file ``name`` by its release's own list, or None where that can't be had."""
    with tempfile.TemporaryDirectory(prefix="dlenv-") as scratch:
        try:
            text = fetch(urls, Path(scratch) / _SUMS, limit=1 << 20).path.read_text(encoding="utf-8")
        except (Unreachable, DataError, UnicodeDecodeError):
            return None
    found = re.search(rf"^([0-9a-f]{{64}}) [ *]{re.escape(name)}$", text, re.MULTILINE)
    return found[1] if found else None
