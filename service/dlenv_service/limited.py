"""uvicorn's HTTP protocol with the limits that it lacks: slow or endless heads, bodies that nobody waits for any more
or that are mostly wrapping, answers that nobody reads, and connections without number.

A head has to arrive within ``header_timeout_ms`` of its first byte, or of the connection; a body within
``body_timeout_ms`` of its answer where that came first (one that is read has its limit in :mod:`dlenv_service.http`).
A client that takes nothing of its answer for a minute loses its connection.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import cache
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from dlenv.errors import BodyTimeout, DlenvError, HeadTooLarge, RequestError, Unavailable
from dlenv_service.config import Settings, load_settings
from dlenv_service.http import problem

__all__ = ["LimitedProtocol", "most_connections"]

# llhttp itself takes any number; uvicorn's other parser, h11, 16 KiB (DEFAULT_MAX_INCOMPLETE_EVENT_SIZE), and a proxy
# in front adds some of its own.
MOST_HEAD_BYTES = 65_536
# Each header takes some 200 bytes of memory, however short it is; Apache's own limit is 100 (LimitRequestFields).
MOST_HEADERS = 256
# What the sizes of chunks, their extensions and trailers may take, beyond as much as the body itself: chunks of less
# than five bytes are sent to keep the event loop busy, and the rest is thrown away.
MOST_WRAPPING_BYTES = 65_536
# As nginx's send_timeout. The kernel says that there is room again when a third of its buffer is sent, which has some
# megabytes: in less time, a client on a slow line would look like one that does not read.
TAKEN_WITHIN_S = 60.0
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
    _began = False  # a head is complete, or a message over, since data was last received
    _head_bytes = 0
    _hosts = 0
    _wrong: DlenvError | None = None  # with the head, which the parser has no word for
    _body_bytes = 0
    _wrapped_bytes = 0  # of the body, and what it came in
    _watch: asyncio.TimerHandle | None = None  # on an answer that the client has not taken yet

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
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head or a body that goes on and on."""
        if not self._in_body:
            self._wait_for_head()  # an empty line before a request begins no message, but is no head either
        self._began = False
        super().data_received(data)
        # Of data in which something else came to its end before, nobody tells how much is whose: at most one read.
        if not self._began and not self.transport.is_closing():
            if self._in_head:
                self._head_bytes += len(data)
                if self._head_bytes > MOST_HEAD_BYTES:
                    self._refuse(HeadTooLarge(f"the request's head has more than {MOST_HEAD_BYTES} bytes; send fewer"))
            elif self._in_body:
                self._wrapped_bytes += len(data)
                if self._wrapped_bytes > 2 * self._body_bytes + MOST_WRAPPING_BYTES:
                    self._refuse_body()

    def on_message_begin(self) -> None:
        """Wait for the rest of the head."""
        self._in_head, self._head_bytes, self._hosts = True, 0, 0
        self._wait_for_head()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer is none, so that what was checked in the head stays true (RFC 9110, 6.5.1)."""
        if self._in_body:
            return
        if len(self.headers) == MOST_HEADERS:
            self._wrong = HeadTooLarge(f"the request has more than {MOST_HEADERS} headers; send fewer")
            raise ValueError  # which the parser passes on as an error of its own
        self._hosts += name.lower() == b"host"
        super().on_header(name, value)

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong, where it is known."""
        if self._wrong is not None:
            self._refuse(self._wrong)
        else:
            super().send_400_response(msg)

    def on_headers_complete(self) -> None:
        """Stop waiting for the head; whoever answers the request waits for its body."""
        # What stands in front may have picked another one than we would (RFC 9112, 3.2).
        if self._hosts != 1 and self.parser.get_http_version() == "1.1":
            self._wrong = RequestError(f"the request has {self._hosts} Host headers; HTTP/1.1 wants exactly one")
            raise ValueError
        self._in_head, self._in_body = False, True
        self._began, self._body_bytes, self._wrapped_bytes = True, 0, 0
        self.stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count what is not wrapping."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop waiting for the body."""
        self._in_body, self._began = False, True
        self.stop_waiting()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Give the rest of a body that was not waited for its time to arrive, and the answer its time to be taken."""
        super().on_response_complete()
        self._watch_answer()
        if self._in_body and not self.transport.is_closing():
            self.stop_waiting()
            self._timer = self.loop.call_later(self.limits.body_timeout_ms / 1000, self._too_slow)

    def pause_writing(self) -> None:
        """Watch whether the client takes what is written."""
        super().pause_writing()
        self._watch_answer()

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; one whose answer is still being taken is none."""
        if not self.transport.is_closing() and self.transport.get_write_buffer_size():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:
            super().timeout_keep_alive_handler()

    def stop_waiting(self) -> None:
        """Nothing is late any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait_for_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.limits.header_timeout_ms / 1000, self._too_slow)

    def _watch_answer(self) -> None:
        """Look later whether the client has taken something of what is written and not sent."""
        if self._watch is None and (left := self.transport.get_write_buffer_size()):
            self._watch = self.loop.call_later(TAKEN_WITHIN_S, self._not_taken, left)

    def _not_taken(self, before: int) -> None:
        self._watch = None
        if self.transport.get_write_buffer_size() >= before:
            self.transport.abort()  # to close would wait for the client, which may never read
        else:
            self._watch_answer()

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
        self._watch_answer()

    def _refuse_body(self) -> None:
        """End a request whose body never comes to the point, whether it is being answered or was."""
        cycle = self.cycle
        if cycle.response_started or self.pipeline:  # another answer is due first
            self.transport.abort()
            return
        self._refuse(RequestError("the body came in absurdly small pieces; send larger ones"))
        cycle.disconnected = True  # who waits for the body learns that there is none
        cycle.message_event.set()
