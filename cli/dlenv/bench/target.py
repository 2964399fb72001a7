"""What is asked: ready-made requests for one URL, as the bytes that go over the wire."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

import msgspec

from dlenv import __version__
from dlenv.errors import UsageError

# What an HTTP/1.1 request line and a field may hold (RFC 9110 sections 5.6.2 and 5.5): no line ends above all.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t -~\x80-\xff]*")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request; ``expect`` must occur in the body of every 200 answer to it, or the answer is counted as wrong."""

    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    expect: bytes = b""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where the requests go, which are used in turn; an answer with a ``rejected`` status is no failure."""

    url: str
    requests: tuple[Request, ...]
    method: str = "POST"
    rejected: tuple[int, ...] = (429, 503)


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where to connect to."""

    host: str
    port: int
    tls: bool


def address(target: Target) -> Address:
    """Where the target's URL leads to; raises ``UsageError`` where it is no http or https URL."""
    parts = _split(target.url)
    assert parts.hostname
    tls = parts.scheme == "https"
    return Address(host=parts.hostname, port=parts.port or (443 if tls else 80), tls=tls)


def wires(target: Target) -> tuple[bytes, ...]:
    """Each request as HTTP/1.1 bytes.

    Raises:
        UsageError: there is no request, or one that can't be written as HTTP.
    """
    parts = _split(target.url)
    if not target.requests:
        raise UsageError("there is no request to send; give at least one")
    if not _TOKEN.fullmatch(target.method) or target.method.upper() in ("HEAD", "CONNECT"):
        raise UsageError(
            f"method {target.method!r} can't be measured; give one whose answers have a body, such as POST"
        )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"{target.method} {path} HTTP/1.1", f"Host: {parts.netloc.rpartition('@')[2]}"]
    result = []
    for request in target.requests:
        for name, value in request.headers:
            if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
                raise UsageError(f"header {name!r} can't be sent; remove line ends and letters outside of Latin-1")
        given = {name.lower() for name, _ in request.headers}
        own = (("User-Agent", f"dlenv/{__version__}"), ("Content-Length", str(len(request.body))))
        fields = [*((name, value) for name, value in own if name.lower() not in given), *request.headers]
        head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in fields)])
        result.append(head.encode("latin-1") + b"\r\n\r\n" + request.body)
    return tuple(result)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, brackets that do not close
        usable = False
    if not usable or not all("!" <= char <= "~" for char in url):
        raise UsageError(f"{url!r} is not an http or https URL; give one such as http://127.0.0.1:8000")
    return parts
