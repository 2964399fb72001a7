"""The file of API keys: names, hashes, scopes and limits; never a key itself.

::

    schema = 1

    [[key]]
    name = "camera"
    hash = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    scopes = ["infer"]
    requests_per_second = 100.0
    created = 2026-11-21T20:00:00Z

A plain SHA-256 is enough here, unlike for passwords: a key is 256 random bits, which nobody guesses however quick the
hash is. ``schema`` must be there, so that a file that is cut off or empty is broken, and not one without keys.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import secrets
import stat
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import filelock
import msgspec

from dlenv.errors import KeysInvalid, UsageError
from dlenv_service.access import KeyScope

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Key", "add", "digest", "new_key", "parse", "read", "remove"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
HASH = re.compile(r"sha256:[0-9a-f]{64}")
# Finds keys that were published by mistake (secret scanners go by prefixes).
PREFIX = "dlenv_"
KEY_BYTES = 32
MOST_BYTES = 1 << 20  # some 5,000 keys; the service stops for a fifth of a second to read them
MOST_REQUESTS_PER_SECOND = 1_000_000.0
LOCK_S = 10.0


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key, known by its name; ``scopes`` may be empty: such a key can read, and nothing else."""

    name: str
    hash: str
    scopes: tuple[KeyScope, ...] = ()
    requests_per_second: float | None = None
    created: datetime | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"name {ascii(self.name)[:80]} is not 1 to 64 letters, digits, dots, dashes, _ or @")
        if not HASH.fullmatch(self.hash):
            raise ValueError(f"hash of {self.name!r} is not sha256: and 64 hexadecimal digits")
        limit = self.requests_per_second
        if limit is not None and not (math.isfinite(limit) and 0 < limit <= MOST_REQUESTS_PER_SECOND):
            raise ValueError(f"requests_per_second {limit} of {self.name!r} is not above 0 and at most 1000000")


class _Contents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: Literal[1]
    key: tuple[Key, ...] = ()


def new_key() -> str:
    """A key that was never there before: 256 bits of the system's randomness."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def digest(key: bytes) -> bytes:
    """The hash by which a key is known, 32 bytes."""
    return hashlib.sha256(key).digest()


def parse(content: bytes) -> tuple[Key, ...]:
    """The keys of a file.

    Raises:
        ValueError: it isn't one; says why.
    """
    # RecursionError: brackets in brackets, in thousands.
    try:
        contents = msgspec.convert(tomllib.loads(content.decode("utf-8")), _Contents)
    except (ValueError, RecursionError) as error:
        raise ValueError(str(error).replace("\n", " ") or "nested too deeply") from None
    for what, values in (
        ("name", [key.name for key in contents.key]),
        ("hash", [key.hash for key in contents.key]),
    ):
        if len(set(values)) != len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise ValueError(f"{what} {twice!r} is there twice")
    return contents.key


def read(path: Path) -> tuple[tuple[Key, ...], os.stat_result]:
    """The keys of the file, and which file that was.

    Raises:
        KeysInvalid: it can't be read, holds something else, or everybody may write it.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(MOST_BYTES + 1)
    except PermissionError:
        raise KeysInvalid(
            f"this user may not read the keys file {path}; run dlenv as its owner (in Compose: DLENV_UID), or let this "
            "user read it"
        ) from None
    except OSError as error:
        raise KeysInvalid(f"the keys file {path} can't be read: {error.strerror}; make it with `dlenv keys`") from None
    if os.name == "posix" and status.st_mode & stat.S_IWOTH:
        raise KeysInvalid(f"everybody may write the keys file {path}, and so let themselves in; chmod o-w it")
    if len(content) > MOST_BYTES:
        raise KeysInvalid(f"the keys file {path} is larger than {MOST_BYTES} bytes; is it the right file?")
    try:
        return parse(content), status
    except ValueError as error:
        raise KeysInvalid(f"the keys file {path} is not one: {error}; mend it or make it with `dlenv keys`") from None


def add(path: Path, name: str, scopes: tuple[KeyScope, ...], requests_per_second: float | None = None) -> str:
    """Make a key, and put its hash into the file, which is made where there is none.

    Returns:
        The key; nobody can find it out later.

    Raises:
        UsageError: the name is taken or can't be one, or the limit can't be.
        KeysInvalid: the file can't be read or written.
    """
    text = new_key()
    created = datetime.now(timezone.utc).replace(microsecond=0)
    try:
        key = Key(
            name=name,
            hash=f"sha256:{digest(text.encode()).hex()}",
            scopes=tuple(dict.fromkeys(scopes)),
            requests_per_second=requests_per_second,
            created=created,
        )
    except ValueError as error:
        raise UsageError(f"no such key can be made: {error}") from None

    def change(keys: tuple[Key, ...]) -> tuple[Key, ...]:
        if any(each.name == name for each in keys):
            raise UsageError(f"{path} has a key {name!r} already; take another name, or remove that one first")
        return (*keys, key)

    _change(path, change)
    return text


def remove(path: Path, name: str) -> None:
    """Take a key away.

    Raises:
        UsageError: there is none of that name; names those that there are.
        KeysInvalid: the file can't be read or written.
    """

    def change(keys: tuple[Key, ...]) -> tuple[Key, ...]:
        left = tuple(each for each in keys if each.name != name)
        if len(left) == len(keys):
            known = ", ".join(each.name for each in keys) or "none"
            raise UsageError(f"{path} has no key {ascii(name)[:80]}; it has {known}")
        return left

    read(path)
    _change(path, change)


def _change(path: Path, change: Callable[[tuple[Key, ...]], tuple[Key, ...]]) -> None:
    path = Path(os.path.realpath(path))  # a link stays one
    if not path.parent.is_dir():
        raise KeysInvalid(f"the keys file {path} can't be written: there is no folder {path.parent}; make it first")
    try:
        with filelock.FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_S):
            there = path.exists()
            keys, status = read(path) if there else ((), None)
            _write(path, change(keys), status)
    except filelock.Timeout:
        raise KeysInvalid(f"the keys file {path} is being changed by somebody else; try again") from None
    except OSError as error:
        raise KeysInvalid(f"the keys file {path} can't be written: {error.strerror or error}") from None


def _write(path: Path, keys: tuple[Key, ...], before: os.stat_result | None) -> None:
    """Put a new file in the old one's place, for the same owner; a new one is its owner's alone (0600)."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
            file.write(_toml(keys).encode())
        if before is not None and os.name == "posix":
            Path(name).chmod(before.st_mode & 0o644)
            # Root changes the file of the service's user, which has to read it afterwards.
            with contextlib.suppress(PermissionError):
                os.chown(name, before.st_uid, before.st_gid)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _toml(keys: tuple[Key, ...]) -> str:
    """Names, hashes and scopes are of characters that need no escaping."""
    parts = ["# Made by `dlenv keys`; the keys themselves are nowhere in here.\nschema = 1\n"]
    for key in keys:
        scopes = ", ".join(f'"{scope}"' for scope in key.scopes)
        lines = [f'name = "{key.name}"', f'hash = "{key.hash}"', f"scopes = [{scopes}]"]
        if key.requests_per_second is not None:
            lines.append(f"requests_per_second = {key.requests_per_second!r}")
        if key.created is not None:
            lines.append(f"created = {key.created.isoformat()}")
        parts.append("\n[[key]]\n" + "\n".join(lines) + "\n")
    return "".join(parts)
