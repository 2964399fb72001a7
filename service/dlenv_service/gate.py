"""What a request has to pass before its handler and its body: the address that it came to, its key, its origin."""

from __future__ import annotations

from dlenv.errors import NotFound, Unauthorized
from dlenv_service import audit
from dlenv_service.access import Entry
from dlenv_service.config import Settings
from dlenv_service.http import Response, Scope, header
from dlenv_service.keys import Keys

__all__ = ["ADMIN_ADDRESS", "NOBODY", "Gate", "credentials"]

Headers = tuple[tuple[bytes, bytes], ...]

# Set in the scope of a request that came to --admin-address.
ADMIN_ADDRESS = "dlenv.admin_address"
# The caller, where nobody is asked for a key.
NOBODY = "-"

# What a page of another origin may send, and read of an answer, beyond what every page may.
SENT = b"authorization, content-type, inference-header-content-length, x-request-id"
READ = b"inference-header-content-length, retry-after, www-authenticate, x-request-id"
# Seconds for which a browser need not ask again; Chromium's own limit is 7,200.
PREFLIGHT_S = b"600"


def credentials(scope: Scope) -> bytes | None:
    """The ``Authorization`` header.

    Raises:
        Unauthorized: there are several, of which a proxy before us may have read another one.
    """
    found = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(found) > 1:
        raise Unauthorized("there are several Authorization headers; send one")
    return found[0] if found else None


class Gate:
    """Lets requests in.

    Raises:
        KeysInvalid: the file of keys can't be used.
        StartError: the audit log can't be written.
    """

    def __init__(self, settings: Settings) -> None:
        self.keys = Keys(settings.keys) if settings.keys is not None else None
        self._management_elsewhere = settings.admin_address is not None
        self._origins = frozenset(settings.cors_origin)
        if settings.audit_log is not None:
            audit.keep(settings.audit_log)

    def enter(self, scope: Scope, entry: Entry) -> str:
        """Let a request in; the name of its key.

        Raises:
            NotFound: it is for the second address. Not 403, since no key helps: the path is not there.
            Unauthorized: it needs a key that is known.
            Forbidden: the key lacks the scope.
            Overloaded: the key has used up its requests.
        """
        if entry.management and self._management_elsewhere and not scope.get(ADMIN_ADDRESS, False):
            raise NotFound("this path is answered on the service's admin address only")
        if self.keys is None or entry.access == "open":
            return NOBODY
        authorization = credentials(scope)
        try:
            return self.keys.check(authorization, entry.access)
        except Exception as error:
            caller = self.keys.name(authorization)
            # Requests without a key are counted, not logged: whoever sends them could fill the disk.
            if entry.access == "admin" and caller is not None:
                audit.record(caller, scope, getattr(error, "status", 500))
            raise

    def knows(self, authorization: bytes | None, scope: Scope) -> bool:
        """Whether a request's head is worth keeping, for others that are let in by it: not one without a known key."""
        if self._origins and header(scope, b"origin") is not None:
            return False  # each such answer has headers of its own
        return self.keys is None or self.keys.name(authorization) is not None

    def headers(self, scope: Scope) -> Headers:
        """Headers by which a browser lets a page of another origin read the answer; none unless configured."""
        if not self._origins:
            return ()
        origin = header(scope, b"origin")
        if origin is None or origin not in self._origins:
            return ((b"vary", b"origin"),)
        return (
            (b"vary", b"origin"),
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", READ),
        )

    def preflight(self, scope: Scope) -> Response | None:
        """The answer to a browser's question whether a page of another origin may ask; None where it is no such."""
        if scope["method"] != "OPTIONS" or header(scope, b"access-control-request-method") is None:
            return None
        if not self.allows_origin(header(scope, b"origin")):
            return None
        return Response(
            200,
            [
                (b"access-control-allow-methods", b"GET, HEAD, POST"),
                (b"access-control-allow-headers", SENT),
                (b"access-control-max-age", PREFLIGHT_S),
            ],
            b"",
        )

    def allows_origin(self, origin: str | None) -> bool:
        """Whether the configuration names this origin."""
        return origin is not None and origin in self._origins
