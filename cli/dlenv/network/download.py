"""Fetching a file from the first address that has it: resumed, checked, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import msgspec
from filelock import FileLock, Timeout

from dlenv.errors import DataError, Unreachable
from dlenv.network.http import FAILURES, check_address, client, public, reason

# Connecting fails fast, so that the next address gets its turn; a slow download is no reason to give up.
_TIMEOUT = httpx.Timeout(30, connect=10)
# A connection that drops is taken up again this often at the same address, as long as each time brings something.
_TRIES = 6
# Slower than this (bytes a second, over a window of seconds) is as good as dead: 1 MB would take a quarter of an hour.
_CRAWL, _WINDOW = 1024, 30.0
# No file that dlenv fetches is larger; an address that sends without end is left.
LIMIT = 4 << 30

Report = Callable[[int, int | None], None]


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is there, whole."""

    path: Path
    url: str | None  # where it came from, None where it was there already
    sha256: str
    size: int  # bytes


class _Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a file before it is fetched."""

    sha256: str | None
    md5: str | None
    size: int | None
    limit: int

    @property
    def hashed(self) -> bool:
        return self.sha256 is not None or self.md5 is not None

    def too_large(self, size: int) -> str | None:
        if self.size is not None and size > self.size:
            return f"more than the {self.size:,} bytes that it should have"
        return f"more than {self.limit:,} bytes, the most that is accepted" if size > self.limit else None

    def mismatch(self, path: Path) -> str | None:
        """Why the file is not the wanted one, or None."""
        size = path.stat().st_size
        if self.size is not None and size != self.size:
            return f"wrong size: {size:,} bytes, not {self.size:,}"
        for name, expected in (("sha256", self.sha256), ("md5", self.md5)):
            if expected is not None and (actual := digest(path, name)) != expected.lower():
                return f"wrong checksum: {'SHA-256' if name == 'sha256' else 'MD5'} {actual}, not {expected}"
        return None


class _Wrong(Exception):
    """An address gave another file."""


class _Failed(Exception):
    """An address did not give the file."""


def fetch(
    urls: Sequence[str],
    target: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    limit: int = LIMIT,
    progress: Report = lambda _done, _total: None,
    log: Callable[[str], None] = lambda _: None,
) -> Fetched:
    """``target``, downloaded from the first of ``urls`` that gives it, unless it is there with the right hash.

    ``size`` and ``limit`` are bytes. What an interrupted download left beside the target (``.part``) is taken up
    again where the server says that the file is still the same. ``log`` is told each address that is tried, and why
    one failed; ``progress`` the bytes that are there and the whole file's, where known.

    Raises ``Unreachable`` naming every address and its failure (those that gave another file than the wanted one are
    in its ``wrong``), ``DataError`` where the target can't be written, ``UsageError`` where an address is none.
    """
    for url in urls:
        check_address(url, f"the address of {target.name}")
    wanted = _Wanted(sha256=sha256, md5=md5, size=size, limit=limit)
    failures: list[tuple[str, str]] = []
    wrong: list[str] = []
    try:
        if wanted.hashed and target.is_file() and not wanted.mismatch(target):
            return _fetched(target, None)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _part(target) as part, client(_TIMEOUT) as http:
            for url in urls:
                log(f"Downloading {public(url)}")
                try:
                    _Transfer(http, url, part, wanted, progress, log).run()
                except (_Wrong, _Failed) as failure:
                    log(f"{public(url)}: {failure}")
                    failures.append((public(url), str(failure)))
                    if isinstance(failure, _Wrong):
                        wrong.append(public(url))
                else:
                    part.path.replace(target)
                    return _fetched(target, url)
    except OSError as error:
        raise DataError(f"{target} can't be written ({error.strerror or error})") from None
    text = "; ".join(f"{url} ({why})" for url, why in failures)
    raise Unreachable(f"no mirror gave {target.name}: {text}", wrong=tuple(wrong), failures=tuple(failures))


def digest(path: Path, algorithm: str = "sha256") -> str:
    """The hash of a file, in hexadecimal."""
    hashed = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            hashed.update(chunk)
    return hashed.hexdigest()


def _fetched(path: Path, url: str | None) -> Fetched:
    return Fetched(path=path, url=url, sha256=digest(path), size=path.stat().st_size)


class _Part:
    """The beginning of a file, and beside it what it is the beginning of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._note = path.with_name(path.name + ".json")
        self.keep = False  # whether it is of use to a later run

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def of(self, url: str) -> tuple[int, str | None]:
        """How many bytes of ``url`` are there, and the server's mark of that version of the file."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            return (self.size(), note["validator"]) if note["url"] == url else (0, None)
        except (OSError, ValueError, KeyError, TypeError):
            return 0, None

    def begin(self, url: str, validator: str | None) -> None:
        self.discard()
        self._note.write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def close(self) -> None:
        if not self.keep or not self.path.exists():
            self.discard()


@contextmanager
def _part(target: Path) -> Iterator[_Part]:
    """The part of ``target``; where another process is at it, one of our own that nobody takes up again."""
    lock = FileLock(f"{target}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as folder:
            yield _Part(Path(folder) / "file.part")
        return
    try:
        part = _Part(target.with_name(target.name + ".part"))
        part.keep = part.path.exists()
        try:
            yield part
        finally:
            part.close()
    finally:
        # Removed while it is held (on Windows an open file can't be): filelock looks whether the file that it
        # locked is still the one of that name.
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()


class _Transfer:
    """One file from one address, in as many requests as it takes."""

    def __init__(
        self,
        http: httpx.Client,
        url: str,
        part: _Part,
        wanted: _Wanted,
        progress: Report,
        log: Callable[[str], None],
    ) -> None:
        self._http, self._url, self._part, self._wanted = http, url, part, wanted
        self._progress, self._log = progress, log
        self._resumed = False

    def run(self) -> None:
        """The part is the whole and right file; raises ``_Failed`` or ``_Wrong``, saying why not."""
        self._receive()
        mismatch = self._wanted.mismatch(self._part.path)
        if mismatch and self._resumed:
            self._log(f"{public(self._url)}: {mismatch}; starting anew")
            self._part.discard()
            self._receive()
            mismatch = self._wanted.mismatch(self._part.path)
        if mismatch:
            self._part.discard()
            raise _Wrong(mismatch)

    def _receive(self) -> None:
        for left in reversed(range(_TRIES)):
            before, _ = self._part.of(self._url)
            try:
                if self._request():
                    return
                continue  # what was there is of no use: once more from the start
            except FAILURES as error:
                failure = reason(error)
            after, _ = self._part.of(self._url)
            if not left or not self._part.keep or after <= before:
                break
            self._log(f"{public(self._url)}: {failure}; going on after {after:,} bytes")
        else:
            failure = "it answers with another part of the file than the one asked for"
        raise _Failed(failure)

    def _request(self) -> bool:
        """One request for what is missing; False where the part had to be thrown away."""
        offset, validator = self._part.of(self._url)
        headers = {}
        if offset and (validator or self._wanted.hashed):
            headers["Range"] = f"bytes={offset}-"
            if validator:
                headers["If-Range"] = validator
        with self._http.stream("GET", self._url, headers=headers) as response:
            if headers and response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._part.discard()
                return False
            if response.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
                raise _Failed(f"HTTP {response.status_code}")
            if self._url.startswith("https:") and not self._wanted.hashed:
                for hop in (*response.history, response):  # whoever reads one on the way can lead on to anywhere
                    if hop.url.scheme != "https":
                        raise _Failed(f"it leads to {public(str(hop.url))}, which is not encrypted")
            if response.status_code == httpx.codes.PARTIAL_CONTENT:
                start = _start(response)
                if not headers or start != offset or (validator and _validator(response) not in (None, validator)):
                    self._part.discard()
                    return False
                self._resumed = True
            else:
                if headers:
                    self._log(f"{public(self._url)}: the file has changed, or can't be resumed; starting anew")
                offset, validator = 0, _validator(response)
                self._part.begin(self._url, validator)
                ranges = response.headers.get("Accept-Ranges", "").lower() == "bytes"
                self._part.keep = ranges and bool(validator or self._wanted.hashed)
            self._write(response, offset)
        return True

    def _write(self, response: httpx.Response, offset: int) -> None:
        length = response.headers.get("Content-Length", "")
        total = offset + int(length) if length.isdecimal() else None
        if total is not None and (excess := self._wanted.too_large(total)):
            self._part.discard()
            raise _Wrong(excess)
        done = mark = offset
        since = time.monotonic()
        with self._part.path.open("ab") as output:
            for chunk in response.iter_raw():
                output.write(chunk)
                done += len(chunk)
                if excess := self._wanted.too_large(done):
                    output.close()
                    self._part.discard()
                    raise _Wrong(excess)
                self._progress(done, total)
                if (now := time.monotonic()) - since > _WINDOW:
                    if done - mark < _CRAWL * (now - since):
                        raise _Failed(f"slower than {_CRAWL} bytes/s")
                    since, mark = now, done


def _validator(response: httpx.Response) -> str | None:
    """What names this version of the file in ``If-Range``: a strong ETag, else the date (RFC 9110, section 13.1.5)."""
    etag = str(response.headers.get("ETag", ""))
    if etag and not etag.startswith("W/") and etag.isascii():
        return etag
    date = str(response.headers.get("Last-Modified", ""))
    return date if date and date.isascii() else None


def _start(response: httpx.Response) -> int | None:
    match = re.match(r"bytes ([0-9]{1,18})-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None
