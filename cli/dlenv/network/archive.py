"""Unpacking what a stranger packed: nothing escapes, nothing explodes, and the folder appears whole or not at all."""

from __future__ import annotations

import gzip
import io
import re
import stat
import struct
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import msgspec

from dlenv.errors import ArchiveRefused, DataError

if TYPE_CHECKING:
    from typing_extensions import Self

# What reading a damaged archive raises, beside errors of the file system.
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,  # zipfile: a compression that it does not know
    ValueError,
    OverflowError,
)
# Names that Windows gives to devices, whatever follows a dot, and characters that it refuses:
# https://learn.microsoft.com/en-us/windows/win32/fileio/naming-a-file
_DEVICES = {"con", "prn", "aux", "nul", *(f"{name}{digit}" for name in ("com", "lpt") for digit in "0123456789¹²³")}
_FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f]')
_CHUNK = 1 << 20
# What is read at one go and kept: a zip's list of members (46 bytes and a name each, so some 100 MB in memory), or the
# names and attributes of one member of a tar file. Both are read before there is anything to count.
_MOST_LIST = 8 << 20
_MOST_ATTRIBUTES = 1 << 20


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive may hold. The course's notebooks with their pictures take under 100 MB for each framework."""

    entries: int = 50_000
    total: int = 2 << 30  # bytes, unpacked
    # Unpacked over packed; notebooks reach 5, deflate can reach 1032 (https://zlib.net/zlib_tech.html).
    ratio: float = 200.0
    free: int = 16 << 20  # bytes below which the ratio does not matter: a small file of blanks is no bomb


_DEFAULT = Limits()
_Members = Iterator[tuple[str, Callable[[], IO[bytes]]]]  # the files: name in the archive, and how to open it


def names(archive: Path, *, limits: Limits = _DEFAULT) -> list[str]:
    """The names of the files in a zip or tar archive; raises ``ArchiveRefused`` and ``DataError`` as `unpack` does."""
    try:
        with _opened(archive, limits) as files:
            return [name for name, _ in files]
    except OSError as error:
        raise DataError(f"{archive} can't be read ({error.strerror or error})") from None


def unpack(
    archive: Path,
    folder: Path,
    *,
    members: Callable[[str], str | None] = lambda name: name,
    limits: Limits = _DEFAULT,
) -> list[str]:
    """Unpack a zip or tar archive into ``folder``, which must be missing or empty; the names of the files there.

    ``members`` gives the name below ``folder`` for a file's name in the archive, None to leave it out. Everything is
    unpacked beside and renamed at the end; permissions and dates in the archive count for nothing.

    Raises ``ArchiveRefused`` naming the member and what is wrong with it, ``DataError`` where the archive can't be
    read or the folder can't be written.
    """
    try:
        if folder.exists() and any(folder.iterdir()):
            raise DataError(f"{folder} is not empty; name another folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpack-", dir=folder.parent) as scratch:
            content = Path(scratch) / "content"  # with ordinary permissions, unlike the folder around it
            content.mkdir()
            with _opened(archive, limits) as files:
                written = _write(files, content, members, archive)
            if folder.exists():
                folder.rmdir()
            content.replace(folder)
            return written
    except OSError as error:
        raise DataError(f"{archive} can't be unpacked to {folder} ({error.strerror or error})") from None


def _write(files: _Members, content: Path, members: Callable[[str], str | None], archive: Path) -> list[str]:
    written: list[str] = []
    taken: set[str] = set()
    folders: dict[str, str] = {}
    for original, opened in files:
        if (name := members(original)) is None:
            continue
        if fault := _unportable(name):
            raise _refused(archive, original, fault)
        parts = name.split("/")
        # A name as it is on file systems that ignore case, or that store accents in another form (Windows, macOS).
        keys = [unicodedata.normalize("NFC", "/".join(parts[: depth + 1])).casefold() for depth in range(len(parts))]
        spellings = {key: "/".join(parts[: depth + 1]) for depth, key in enumerate(keys[:-1])}
        if (
            keys[-1] in taken
            or keys[-1] in folders
            or any(key in taken or folders.get(key, spelling) != spelling for key, spelling in spellings.items())
        ):
            raise _refused(archive, original, "another member has the same name where case does not count")
        taken.add(keys[-1])
        folders.update(spellings)
        target = content.joinpath(*parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened() as source, target.open("xb") as output:
            while chunk := source.read(_CHUNK):
                output.write(chunk)
        written.append(name)
    return written


class _Metered:
    """A file whose bytes are counted as they are read, whatever the archive says about them."""

    def __init__(self, file: IO[bytes], room: _Room) -> None:
        self._file, self._room = file, room

    def read(self, size: int = _CHUNK) -> bytes:
        chunk = self._file.read(size)
        self._room.take(len(chunk))
        return chunk

    def __enter__(self) -> _Metered:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class _Room:
    """How much an archive may still unpack to."""

    def __init__(self, archive: Path, limits: Limits) -> None:
        self._archive, self._limits = archive, limits
        self._packed = archive.stat().st_size
        self._total = self._entries = 0

    def enter(self) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise ArchiveRefused(f"{self._archive.name} has more than {self._limits.entries:,} members")

    def take(self, size: int) -> None:
        self._total += size
        limits = self._limits
        if self._total > limits.total:
            raise ArchiveRefused(f"{self._archive.name} unpacks to more than {limits.total:,} bytes")
        if self._total > max(limits.free, limits.ratio * self._packed):
            raise ArchiveRefused(f"{self._archive.name} unpacks to more than {limits.ratio:.0f} times its size")


class _Pieces(io.BufferedReader):
    """A zip file of which nobody reads much at once, as `zipfile` does its list of members."""

    def read(self, size: int | None = -1) -> bytes:
        most = _MOST_LIST + 1
        data = super().read(most if size is None or size < 0 else min(size, most))
        if len(data) == most:
            raise zipfile.BadZipFile("its list of members is too long")
        return data


class _Member(tarfile.TarInfo):
    """A header of a tar file that does not announce more names and attributes than there can be, or less than none."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        # A negative size leads back, in older versions of Python for ever (CVE-2025-8194).
        if not 0 <= member.size <= (member.size if member.type in tarfile.REGULAR_TYPES else _MOST_ATTRIBUTES):
            raise tarfile.HeaderError("a header of impossible size")
        return member


@contextmanager
def _opened(archive: Path, limits: Limits) -> Iterator[_Members]:
    room = _Room(archive, limits)
    try:
        if zipfile.is_zipfile(archive):
            with _Pieces(io.FileIO(archive)) as pieces, zipfile.ZipFile(cast("IO[bytes]", pieces)) as file:
                yield _zipped(file, archive, room)
            return
        with archive.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"  # RFC 1952, section 2.3.1
            raw.seek(0)
            stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw
            # "r|" reads from front to back, so that every byte passes the meter, headers too.
            with tarfile.open(fileobj=cast("IO[bytes]", _Metered(stream, room)), mode="r|", tarinfo=_Member) as tar:
                yield _tarred(tar, archive, room)
    except _DAMAGED as error:
        raise ArchiveRefused(f"{archive.name} is damaged, or no zip or tar archive ({error})") from None


def _zipped(file: zipfile.ZipFile, archive: Path, room: _Room) -> _Members:
    for info in file.infolist():
        room.enter()
        # ``filename`` ends at a zero byte, and on Windows has its backslashes replaced.
        name = _inside(info.orig_filename, archive)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(archive, name, "it is a link" if kind == stat.S_IFLNK else "it is no plain file")
        if info.flag_bits & 1:
            raise _refused(archive, name, "it is encrypted")
        if not info.orig_filename.endswith("/"):
            yield name, lambda info=info: cast("IO[bytes]", _Metered(file.open(info), room))  # type: ignore[misc]


def _tarred(tar: tarfile.TarFile, archive: Path, room: _Room) -> _Members:
    for info in tar:
        room.enter()
        name = _inside(info.name, archive)
        if info.issym() or info.islnk():
            raise _refused(archive, name, "it is a link")
        if not (info.isdir() or info.isreg()) or info.issparse():
            raise _refused(archive, name, "it is no plain file")
        if info.isreg():
            yield name, lambda info=info: cast("IO[bytes]", tar.extractfile(info))  # type: ignore[misc]


def _inside(name: str, archive: Path) -> str:
    """``name`` without empty parts and "."; raises ``ArchiveRefused`` where it leads out of the folder."""
    if "\\" in name or "\0" in name:
        raise _refused(archive, name, "its name holds a backslash or a zero byte")
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        raise _refused(archive, name, "its name is an absolute path")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _refused(archive, name, "its name leads out of the folder")
    return "/".join(parts)


def _unportable(name: str) -> str | None:
    """Why a file can't have this name on every system, or None."""
    if not name:
        return "it has no name"
    for part in name.split("/"):
        if _FORBIDDEN.search(part):
            return "its name holds a character that Windows refuses"
        if part.endswith((".", " ")) or part.partition(".")[0].rstrip().casefold() in _DEVICES:
            return "Windows can't have a file of that name"
    return None


def _refused(archive: Path, member: str, fault: str) -> ArchiveRefused:
    return ArchiveRefused(f"{archive.name} is refused for its member {member!r}: {fault}")
