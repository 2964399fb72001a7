"""Who may ask: API keys, checked on every request, from a file that may change while the service runs.

Needs neither the service nor torch, so that every process that answers requests can have one of its own.
"""

from __future__ import annotations

import hmac
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from dlenv.errors import Forbidden, KeysInvalid, Overloaded, Unauthorized
from dlenv_service.access import Access
from dlenv_service.keyfile import Key, digest, read

__all__ = ["Keys"]

log = logging.getLogger("dlenv.service")

# A key that was removed stops working within this, and what the look costs (a microsecond) is nothing.
LOOK_EVERY_S = 1.0
# What floating point loses when some thousand intervals are added up.
ROUNDING_S = 1e-6

Identity = tuple[int, int, int, int, int]


class Keys:
    """The keys of a file.

    Args:
        path: the file; :mod:`dlenv_service.keyfile` says what it holds.
        clock: seconds that only go up.

    Raises:
        KeysInvalid: the file can't be used. A later one that can't leaves the keys as they are, and is logged.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._known: dict[bytes, tuple[bytes, Key]] = {}  # by hash
        self._due: dict[str, float] = {}  # by name, when the requests let in would be over at the key's own rate
        keys, status = read(path)
        self._use(keys)
        self._identity: Identity | None = _identity(status)
        self._look_at = clock() + LOOK_EVERY_S

    def check(self, authorization: bytes | None, access: Access) -> str:
        """The name of the key in an ``Authorization`` header, which counts as one request of its.

        Raises:
            Unauthorized: there is no key, or none that is known.
            Forbidden: it lacks the scope.
            Overloaded: it has no more requests left at the moment.
        """
        now = self._clock()
        if now >= self._look_at:
            self._look(now)
        key = self._find(authorization)
        if access in ("infer", "admin") and access not in key.scopes:
            raise Forbidden(f"the key {key.name!r} lacks the scope {access!r}; use another, or ask for one that has it")
        if key.requests_per_second is not None:
            self._count(key, key.requests_per_second, now)
        return key.name

    def name(self, authorization: bytes | None) -> str | None:
        """The name of a key, whatever it may do; None where there is none. Nothing is counted."""
        try:
            return self._find(authorization).name
        except Unauthorized:
            return None

    def _find(self, authorization: bytes | None) -> Key:
        if authorization is None:
            raise Unauthorized("this needs an API key; send the header Authorization: Bearer KEY")
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            raise Unauthorized("the header Authorization is not understood; send Bearer KEY")
        # What time a look-up takes depends on hashes, of which nobody can choose the beginning; and the one that is
        # found is compared in constant time.
        given = digest(token.strip())
        found = self._known.get(given)
        if found is None or not hmac.compare_digest(found[0], given):
            raise Unauthorized("the API key is not known here; check it, or ask who runs the service", "invalid_token")
        return found[1]

    def _count(self, key: Key, rate: float, now: float) -> None:
        """Let a request in where the key has one left.

        A token bucket that holds one second's worth (at least one request), written as the generic cell rate
        algorithm: one number a key (ITU-T I.371, annex A).
        """
        interval = 1 / rate
        due = max(self._due.get(key.name, 0.0), now)
        wait = due - now - max(0.0, 1 - interval)
        if wait > ROUNDING_S:
            seconds = math.ceil(wait)
            raise Overloaded(
                f"the key {key.name!r} has used up its {rate:g} requests per second; try again in {seconds} s", seconds
            )
        self._due[key.name] = due + interval

    def _look(self, now: float) -> None:
        """Take the file's keys where it has changed."""
        self._look_at = now + LOOK_EVERY_S
        try:
            identity: Identity | None = _identity(os.stat(self.path))  # noqa: PTH116 - half the time of Path.stat
        except OSError:
            identity = None
        if identity == self._identity:
            return
        self._identity = identity
        try:
            keys, status = read(self.path)
        except KeysInvalid as error:
            log.error("%s; the keys from before go on to work", error)
            return
        self._identity = _identity(status)
        before = {key.name for _, key in self._known.values()}
        self._use(keys)
        after = {key.name for key in keys}
        log.info("keys read again: %d (new: %s; gone: %s)", len(keys), _list(after - before), _list(before - after))

    def _use(self, keys: tuple[Key, ...]) -> None:
        hashes = [bytes.fromhex(key.hash.removeprefix("sha256:")) for key in keys]
        self._known = {each: (each, key) for each, key in zip(hashes, keys, strict=True)}
        limited = {key.name for key in keys if key.requests_per_second is not None}
        self._due = {name: due for name, due in self._due.items() if name in limited}


def _identity(status: os.stat_result) -> Identity:
    """What changes when a file is replaced or written."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
