"""Fetching a file from the first mirror that has it, whole and with the right checksum."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from dlenv import __version__
from dlenv.errors import DataError, Unreachable

# Connecting fails fast, so that the next mirror gets its turn; a slow download is no reason to give up.
_TIMEOUT = httpx.Timeout(30, connect=10)


@dataclass(frozen=True)
class File:
    """A file of a dataset: its name on every mirror and its MD5, as the dataset's publisher states it."""

    name: str
    md5: str


def fetch(file: File, mirrors: Sequence[str], folder: Path, log: Callable[[str], None] = lambda _: None) -> Path:
    """``folder/file.name``, downloaded unless it is there with the right checksum.

    ``mirrors`` are base addresses, tried in order. The file appears whole and checked, or not at all. ``log`` is
    told each address that is tried, and why one failed.

    Raises ``Unreachable`` naming every address and its failure, ``DataError`` where ``folder`` can't be written.
    """
    target = folder / file.name
    failures = []
    try:
        if target.is_file() and _md5(target) == file.md5:
            return target
        folder.mkdir(parents=True, exist_ok=True)
        for mirror in mirrors:
            url = f"{mirror.rstrip('/')}/{file.name}"
            log(f"Downloading {url}")
            if not (failure := _download(url, file.md5, target)):
                return target
            log(f"{url}: {failure}")
            failures.append(f"{url} ({failure})")
    except OSError as error:
        raise DataError(f"{target} can't be written ({error.strerror}); choose another folder by --data-dir") from None
    raise Unreachable(
        f"no mirror gave {file.name}: {'; '.join(failures)}; try again later, name another mirror by --mirror URL, "
        f"or put the file into {folder} by hand"
    )


def _download(url: str, md5: str, target: Path) -> str | None:
    """Download ``url`` to ``target``; returns why not, or None where it worked."""
    descriptor, name = tempfile.mkstemp(prefix=".download-", dir=target.parent)
    scratch = Path(name)
    try:
        digest = hashlib.md5(usedforsecurity=False)  # the publishers state MD5
        with os.fdopen(descriptor, "wb") as output, _stream(url) as response:
            if response.status_code != httpx.codes.OK:
                return f"HTTP {response.status_code}"
            for chunk in response.iter_bytes():
                output.write(chunk)
                digest.update(chunk)
        if digest.hexdigest() != md5:
            return f"wrong checksum: MD5 {digest.hexdigest()}, not {md5}"
        scratch.replace(target)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return str(error) or type(error).__name__
    else:
        return None
    finally:
        with suppress(FileNotFoundError):
            scratch.unlink()


def _stream(url: str):  # type: ignore[no-untyped-def]  # httpx does not name the type of its context manager
    headers = {"User-Agent": f"dlenv/{__version__}"}
    return httpx.stream("GET", url, timeout=_TIMEOUT, follow_redirects=True, headers=headers)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.md5(usedforsecurity=False)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
