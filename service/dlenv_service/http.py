"""The little of HTTP that an ASGI application needs here: a response, reading a body within limits, errors."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import orjson

from dlenv.errors import (
    BodyTimeout,
    DlenvError,
    MethodNotAllowed,
    Overloaded,
    RequestError,
    TooLarge,
    Unauthorized,
    UnsupportedType,
)

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:
    from async_timeout import timeout

__all__ = [
    "Receive",
    "Response",
    "Scope",
    "Send",
    "content_type",
    "header",
    "json_response",
    "other_protocol",
    "problem",
    "read_body",
]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

# A body of the largest size in pieces of a network packet is a few thousand messages; a client that sends
# megabytes as one-byte chunks only wants to keep the event loop busy (CVE-2025-23310 was such a flood).
MAX_CHUNKS = 20_000


class Response:
    """A whole answer: status, headers, body. ``content-length`` is added when it is sent."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    async def send(self, send: Send, extra: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Send it, with some headers more."""
        headers = [*self.headers, *extra]
        if self.status != 304:  # there the length would be that of the body that is not sent (RFC 9110, 8.6)
            headers.append((b"content-length", str(len(self.body)).encode()))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def json_response(document: object, status: int = 200) -> Response:
    """A response with a JSON body; NumPy arrays in it are written as arrays."""
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(status, [(b"content-type", b"application/json")], body)


def problem(error: DlenvError) -> Response:
    """The response to a request that failed: ``{"error": text}`` and the error's status."""
    response = json_response({"error": str(error)}, error.status)
    if isinstance(error, Overloaded):
        response.headers.append((b"retry-after", str(error.retry_after).encode()))
    if isinstance(error, Unauthorized):
        reason = f', error="{error.reason}"' if error.reason else ""
        response.headers.append((b"www-authenticate", f'Bearer realm="dlenv"{reason}'.encode()))
    if isinstance(error, MethodNotAllowed):
        response.headers.append((b"allow", error.allow.encode()))
    return response


def header(scope: Scope, name: bytes) -> str | None:
    """A request header's value; ``name`` in lower case, as ASGI servers give them."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return None


def content_type(scope: Scope, allowed: tuple[str, ...]) -> str | None:
    """The media type of the request's body, without parameters; None where it names none.

    Raises:
        UnsupportedType: it isn't one of ``allowed``, or the body is compressed.
    """
    encoding = header(scope, b"content-encoding")
    if encoding not in (None, "", "identity"):
        raise UnsupportedType(f"content-encoding {encoding[:100]!a} is not understood; send the body uncompressed")
    value = header(scope, b"content-type")
    if value is None:
        return None
    media = value.partition(";")[0].strip().lower()
    if media not in allowed:
        raise UnsupportedType(f"content-type {media[:100]!a} is not understood here; send {' or '.join(allowed)}")
    return media


async def read_body(
    scope: Scope, receive: Receive, max_bytes: int, timeout_ms: int, take: Callable[[int, bool], None]
) -> bytes:
    """Read a request's body.

    Args:
        take: called with the bytes of each piece, and whether more are to come; refuses it by raising.

    Raises:
        TooLarge: by its ``content-length``, before anything is read, or while it streams in.
        BodyTimeout: it was not complete in time.
        RequestError: the client went away, or sent it in absurdly small pieces.
    """
    declared = header(scope, b"content-length")
    if declared is not None and declared.isascii() and declared.isdigit() and int(declared) > max_bytes:
        raise TooLarge(f"the body has {declared} bytes and may have {max_bytes}; send less in one request")
    try:
        async with timeout(timeout_ms / 1000):
            message = await receive()
            if not message.get("more_body", False) and message["type"] == "http.request":
                body: bytes = message.get("body", b"")
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
                take(len(body), False)
                return body
            return await _read_chunks(message, receive, max_bytes, take)
    except (asyncio.TimeoutError, TimeoutError):
        raise BodyTimeout(f"the body did not arrive within {timeout_ms} ms; send it faster, or less of it") from None


async def _read_chunks(
    message: MutableMapping[str, Any], receive: Receive, max_bytes: int, take: Callable[[int, bool], None]
) -> bytes:
    chunks: list[bytes] = []
    size = count = 0
    while True:
        if message["type"] != "http.request":
            raise RequestError("the connection was closed before the body was complete; send all of it")
        chunk = message.get("body", b"")
        size += len(chunk)
        count += 1
        if size > max_bytes:
            raise _too_large(max_bytes)
        if count > MAX_CHUNKS:
            raise RequestError(f"the body came in more than {MAX_CHUNKS} pieces; send larger ones")
        more = message.get("more_body", False)
        take(len(chunk), more)
        chunks.append(chunk)
        if not more:
            return b"".join(chunks)
        message = await receive()


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body is larger than {max_bytes} bytes; send less in one request")


async def other_protocol(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer what is not HTTP: refuse websockets, and acknowledge what servers ask of an application's life."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000})
    elif scope["type"] == "lifespan":
        # Whoever runs the application calls startup and close; a server's lifespan events only need an answer.
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
