"""Fetching a file of a dataset from the first mirror that has it, whole and with the right checksum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlenv.errors import DataError, Unreachable
from dlenv.network import download
from dlenv.network.progress import DownloadProgress


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
    urls = [f"{mirror.rstrip('/')}/{file.name}" for mirror in mirrors]
    try:
        with DownloadProgress(file.name) as progress:
            return download.fetch(urls, folder / file.name, md5=file.md5, progress=progress, log=log).path
    except Unreachable as error:
        raise Unreachable(
            f"{error}; try again later, name another mirror by --mirror URL, or put the file into {folder} by hand",
            wrong=error.wrong,
        ) from None
    except DataError as error:
        raise DataError(f"{error}; choose another folder by --data-dir") from None
