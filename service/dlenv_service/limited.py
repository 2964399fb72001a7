"""uvicorn's HTTP protocol with the limits that it lacks: slow or endless heads, bodies that nobody waits for any more,
answers that nobody reads, and connections without number.

A head has to arrive within ``header_timeout_ms`` of its first byte, or of the connection; a body within
``body_timeout_ms`` of its answer where that came first (one that is read has its limit in :mod:`dlenv_service.http`).
"""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import cache
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from dlenv.errors import BodyTimeout, DlenvError, HeadTooLarge, Unavailable
from dlenv_service.config import Settings, load_settings
from dlenv_service.http import problem

__all__ = ["LimitedProtocol", "most_connections"]

# llhttp itself takes any number; uvicorn's other parser, h11, 16 KiB (DEFAULT_MAX_INCOMPLETE_EVENT_SIZE), and a proxy
# in front adds some of its own.
MOST_HEAD_BYTES = 65_536
# Descriptors for everything but connections: models, logs, Ray, shared memory.
OTHER_DESCRIPTORS = 256
DEFAULTS = load_settings()

# uvicorn warns of each malformed request. Whoever sends those could fill a disk; the answer, 400, is enough.
log = logging.getLogger("dlenv.connection")
log.setLevel(logging.ERROR)


@cache
def most_connections(wanted: int) -> int:
    """How many connections this process can have, up to ``wanted``; its limit of descriptors is raised where it may be.

    Past that limit connections could not even be refused: they would wait in the kernel.
    """
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OTHER_DESCRIPTORS
    if resource.RLIM_INFINITY != soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - OTHER_DESCRIPTORS))


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.logger = log

    _timer: asyncio.TimerHandle | None = None
    _in_head = False  # the parser is inside a head
    _in_body = False
    _head_bytes = 0

    @property
    def limits(self) -> Settings:
        """The settings that apply; there may be no service yet."""
        return DEFAULTS

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse what is one too many; wait for the head of the others."""
        super().connection_made(transport)
        most = most_connections(self.limits.max_connections)
        if len(self.connections) > most:
            self._refuse(Unavailable(f"{most} connections are open, which is the limit; try again in a moment"))
        else:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self.stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head that goes on and on."""
        if not self._in_body:
            self._wait_for_head()  # an empty line before a request begins no message, but is no head either
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse(HeadTooLarge(f"the request's head has more than {MOST_HEAD_BYTES} bytes; send fewer"))

    def on_message_begin(self) -> None:
        """Wait for the rest of the head."""
        self._in_head, self._head_bytes = True, 0
        self._wait_for_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop waiting for the head; whoever answers the request waits for its body."""
        self._in_head, self._in_body = False, True
        self.stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Stop waiting for the body."""
        self._in_body = False
        self.stop_waiting()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Give the rest of a body that was not waited for its time to arrive."""
        super().on_response_complete()
        if self._in_body and not self.transport.is_closing():
            self.stop_waiting()
            self._timer = self.loop.call_later(self.limits.body_timeout_ms / 1000, self._too_slow)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, also one that does not read its answer: closing would wait for that."""
        if not self.transport.is_closing() and self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def stop_waiting(self) -> None:
        """Nothing is late any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait_for_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.limits.header_timeout_ms / 1000, self._too_slow)

    def _too_slow(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self.busy:  # answers go first; what comes after them is not read meanwhile
            self._wait_for_head()
        elif self._in_head:
            limit = self.limits.header_timeout_ms
            self._refuse(BodyTimeout(f"the request's head did not arrive within {limit} ms; send it faster"))
        else:
            self.transport.close()

    def _refuse(self, error: DlenvError) -> None:
        """Answer without a request, and close."""
        response = problem(error)
        lines = [STATUS_LINE[response.status]]
        for name, value in (*response.headers, (b"content-length", str(len(response.body)).encode())):
            lines += (name, b": ", value, b"\r\n")
        self.transport.write(b"".join((*lines, b"connection: close\r\n\r\n", response.body)))
        self.transport.close()
