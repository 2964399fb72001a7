"""TLS with certificate files of one's own, which may be replaced while the service runs."""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path

from dlenv.errors import StartError

__all__ = ["Certificate"]

log = logging.getLogger("dlenv.service")

LOOK_EVERY_S = 1.0

Identity = tuple[tuple[int, int, int, int], ...]


class Certificate:
    """A certificate chain and its private key; new connections on ``context`` see what the files hold.

    Connections that there are go on with the certificate that they began with.

    Args:
        certificate: PEM with the certificate, and those between it and its root.
        key: PEM with the private key, without a password; None where it is in the first file.
        clock: seconds that only go up.

    Raises:
        StartError: the files can't be used. Later ones that can't leave the certificate as it is, and are logged.
    """

    def __init__(self, certificate: Path, key: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._certificate = certificate
        self._key = key or certificate
        self._clock = clock
        self._look_at = clock() + LOOK_EVERY_S
        try:
            self._identity = self._identify()
            self.context = _new_context()
            self._load(self.context)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise StartError(f"{self._problem(error)}; give --tls-certificate and --tls-key files that fit") from None

    def look(self) -> None:
        """Take files that have changed; looks once a second, however often it is called."""
        now = self._clock()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY_S
        try:
            identity = self._identify()
            if identity == self._identity:
                return
            # A pair that doesn't fit takes the key from a context, so it is tried on another one first.
            self._identity = identity
            self._load(_new_context())
            self._load(self.context)
        except (OSError, ValueError) as error:
            # Certificate and key are two files: between the one's change and the other's they don't fit.
            log.error("%s; the certificate from before goes on to be shown", self._problem(error))
            return
        log.info("the certificate was read again")

    def _load(self, context: ssl.SSLContext) -> None:
        # Without a password OpenSSL would ask the terminal for one.
        context.load_cert_chain(self._certificate, self._key, password=lambda: b"")

    def _identify(self) -> Identity:
        statuses = [os.stat(path) for path in (self._certificate, self._key)]  # noqa: PTH116 - half of Path.stat's time
        return tuple((each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns) for each in statuses)

    def _problem(self, error: OSError | ValueError) -> str:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        return f"the certificate {self._certificate} with the key {self._key} can't be used ({reason})"


def _new_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996 deprecates what is older
    context.options |= ssl.OP_NO_RENEGOTIATION  # TLS 1.2: a client could ask for one handshake after another
    context.set_alpn_protocols(["http/1.1"])
    return context
