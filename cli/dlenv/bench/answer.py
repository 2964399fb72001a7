"""Answers as they come from a socket: HTTP/1.1 responses, in whatever pieces.

Framing as RFC 9112 section 6.3 says. One request is in flight on a connection, so more bytes than its answer has
are an error.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

_HEAD_LIMIT = 65536  # bytes; servers' own limits for heads are 8 to 64 KiB
_DIGITS = re.compile(rb"[0-9]{1,18}")
_HEX_DIGITS = re.compile(rb"[0-9a-fA-F]{1,15}")


class BadAnswer(Exception):
    """The bytes are no HTTP/1.1 response, or not the one that was waited for."""


class Answer(NamedTuple):
    """A response; ``reusable`` says whether its connection takes another request."""

    status: int
    body: bytes
    reusable: bool


class _Head(NamedTuple):
    status: int
    length: int | None  # of the body; None: until the connection ends
    chunked: bool
    reusable: bool


class Parser:
    """Takes the bytes of one connection."""

    __slots__ = ("_at", "_buffer", "_chunks", "_head")

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._at = 0  # where the part that is not read yet begins
        self._chunks: list[bytes] = []

    def feed(self, data: bytes) -> Answer | None:
        """The answer that ends with ``data``, or None where more of it has to come; raises ``BadAnswer``."""
        if not self._buffer:
            end = data.find(b"\r\n\r\n")
            if end > 0:  # almost always the whole answer comes at once
                head = _read_head(data[:end])
                if head.length is not None and len(data) == end + 4 + head.length and head.status >= 200:
                    return Answer(head.status, data[end + 4 :], head.reusable)
        self._buffer += data
        return self._read()

    def end(self) -> Answer:
        """The answer that the connection's end ends; raises ``BadAnswer`` where it is cut off."""
        if self._head is None or self._head.length is not None or self._head.chunked:
            raise BadAnswer("closed before the answer" if not self._buffer else "closed in the middle of an answer")
        answer = Answer(self._head.status, bytes(self._buffer[self._at :]), reusable=False)
        self._reset()
        return answer

    def _read(self) -> Answer | None:
        while self._head is None or self._head.status < 200:  # interim answers have no body
            end = self._buffer.find(b"\r\n\r\n", self._at)
            if end < 0:
                if len(self._buffer) - self._at > _HEAD_LIMIT:
                    raise BadAnswer(f"a head of more than {_HEAD_LIMIT} bytes")
                return None
            self._head = _read_head(bytes(self._buffer[self._at : end]))
            self._at = end + 4
        head = self._head
        if head.chunked:
            if not self._read_chunks():
                return None
            body = b"".join(self._chunks)
        elif head.length is None or len(self._buffer) < self._at + head.length:
            return None
        else:
            body = bytes(self._buffer[self._at : self._at + head.length])
            self._at += head.length
        if len(self._buffer) > self._at:
            raise BadAnswer("more bytes than the answer has")
        self._reset()
        return Answer(head.status, body, head.reusable)

    def _read_chunks(self) -> bool:
        """Take the whole chunks that are there (RFC 9112 section 7.1); True after the last one and its trailers."""
        buffer = self._buffer
        while (line := buffer.find(b"\r\n", self._at)) >= 0:
            size = _number(bytes(buffer[self._at : line]).partition(b";")[0].strip(), 16)
            if size == 0:
                end = line if buffer.startswith(b"\r\n", line + 2) else buffer.find(b"\r\n\r\n", line)
                if end >= 0:
                    self._at = end + 4
                return end >= 0
            begin = line + 2
            if len(buffer) < begin + size + 2:
                return False
            if not buffer.startswith(b"\r\n", begin + size):
                raise BadAnswer("a chunk that is longer than it says")
            self._chunks.append(bytes(buffer[begin : begin + size]))
            self._at = begin + size + 2
        return False


@functools.lru_cache(maxsize=1024)  # a server's heads differ by their date at most, once a second
def _read_head(head: bytes) -> _Head:
    lines = head.split(b"\r\n")
    version, _, rest = lines[0].partition(b" ")
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise BadAnswer(f"no HTTP/1.1 response: {head[:40]!r}")
    status = _number(rest[:3], 10)
    length: int | None = None
    chunked, reusable = False, version == b"HTTP/1.1"
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip().lower()
        if name == b"content-length":
            length = _number(value, 10)
        elif name == b"transfer-encoding":
            chunked = value.rpartition(b",")[2].strip() == b"chunked"
        elif name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            reusable = b"keep-alive" in options or (reusable and b"close" not in options)
    if status in (204, 304):
        length, chunked = 0, False
    if chunked:
        length = None
    return _Head(status, length, chunked, reusable and (chunked or length is not None))


def _number(text: bytes, base: int) -> int:
    # int() alone also takes signs, spaces, underscores and prefixes.
    if not (_DIGITS if base == 10 else _HEX_DIGITS).fullmatch(text):
        raise BadAnswer(f"no number where one must be: {text[:20]!r}")
    return int(text, base)
