"""``GET /`` and the files that it loads: the page to draw on, and to watch the service with.

The files lie in ``page/``: HTML, CSS and JavaScript modules as people write them, nothing built. They are read once
and answered from memory. The policy lets a browser run and load nothing else, and call nothing but this service.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from dlenv.errors import NotFound
from dlenv_service.http import Response, Scope, header

__all__ = ["INDEX", "answer"]

INDEX = "index.html"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# require-trusted-types-for: the browser itself refuses to make HTML or script from a string.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
SECURITY = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]


class _File(NamedTuple):
    kind: str
    etag: str
    content: bytes


@cache
def _files() -> dict[str, _File]:
    """Every file of the page by its name."""
    found = {}
    for entry in files("dlenv_service").joinpath("web").iterdir():
        kind = KINDS.get(f".{entry.name.rpartition('.')[2]}")
        if kind is not None:
            content = entry.read_bytes()
            found[entry.name] = _File(kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"', content)
    return found


def answer(scope: Scope, name: str) -> Response:
    """The answer to a request for a file of the page: the file, or 304 where the browser has it.

    Raises:
        NotFound: the page has no such file.
    """
    found = _files().get(name)
    if found is None:
        raise NotFound(f"the page has no file {name[:60]!a}; it begins at /")
    headers = [
        # The browser asks each time and gets 304 until the file changes, so an upgrade never mixes two versions.
        (b"cache-control", b"no-cache"),
        (b"etag", found.etag.encode()),
        *SECURITY,
    ]
    known = [each.strip().removeprefix("W/") for each in (header(scope, b"if-none-match") or "").split(",")]
    if found.etag in known:
        return Response(304, headers, b"")
    return Response(200, [(b"content-type", found.kind.encode()), *headers], found.content)
