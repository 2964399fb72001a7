"""uvicorn's HTTP protocol with a quick way for inference requests whose head is known.

A client that keeps its connection sends the same request line and headers again and again; only the body changes. So
the first such request is parsed by uvicorn and goes through the ASGI application, and what its head says is kept with
the head's very bytes. A request that begins with the same bytes is answered without parsing, without a task of its
own and without ASGI messages, by the same codec, queue and errors. Everything else takes uvicorn's way as before: other
heads, other paths, bodies that arrive in several pieces, pipelined requests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from dlenv.errors import DlenvError, RequestError
from dlenv_service import request_id, routes, tracing
from dlenv_service.batcher import Answer, Item
from dlenv_service.codec import InferRequest, decode, encode
from dlenv_service.http import Response, Scope, content_type, header
from dlenv_service.inference import BINARY_LENGTH, MEDIA_TYPES, check_finite, infer
from dlenv_service.limited import LimitedProtocol

if TYPE_CHECKING:
    from dlenv_service.admission import Admission, Model, Models
    from dlenv_service.config import Settings

__all__ = ["Head", "InferenceProtocol", "read_head"]

END = b"\r\n\r\n"
# Heads that are kept, and how long one may be: a client's takes some 200 bytes, and there are few kinds of clients.
HEADS = 1024
HEAD_BYTES = 4096
CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that went away; seen in statistics only
# Headers that say how the connection or the body is to be handled, which is uvicorn's business, and one that differs
# from request to request, so that its head is not worth keeping.
UNUSUAL = frozenset((b"connection", b"expect", b"transfer-encoding", b"upgrade", request_id.HEADER, *tracing.HEADERS))


class Head(NamedTuple):
    """What the head of an inference request says."""

    path: str
    model: str
    version: str | None
    length: int  # of the body, bytes
    json_length: str | None  # the header Inference-Header-Content-Length
    authorization: bytes | None = None


def read_head(raw: bytes, scope: Scope, max_body_bytes: int) -> Head | None:
    """What ``raw`` says, which uvicorn parsed into ``scope``; None where it takes more than the quick way."""
    headers = scope["headers"]
    # One line for the request, one for each header, and an empty one: both of us see the same end of the head.
    if not raw.startswith(b"POST ") or raw.count(b"\n") != raw.count(b"\r\n") or raw.count(b"\n") != len(headers) + 2:
        return None
    names = [name for name, _ in headers]
    length = header(scope, b"content-length")
    if scope["http_version"] != "1.1" or scope["query_string"] or not UNUSUAL.isdisjoint(names):
        return None
    if names.count(b"authorization") > 1:
        return None
    if names.count(b"content-length") != 1 or length is None or not 0 < int(length) <= max_body_bytes:
        return None
    try:
        handler, arguments = routes.resolve("POST", scope["path"])
        content_type(scope, MEDIA_TYPES)
    except RequestError:
        return None
    if handler is not infer:
        return None
    return Head(
        scope["path"],
        arguments["model"],
        arguments.get("version"),
        int(length),
        header(scope, BINARY_LENGTH),
        next((value for name, value in headers if name == b"authorization"), None),
    )


class InferenceProtocol(LimitedProtocol):
    """One connection. ``service`` gives the service of this process, or None while there is none."""

    heads: dict[bytes, Head] = {}  # noqa: RUF012 - of all connections

    def __init__(self, *arguments: Any, service: Callable[[], Admission[Models] | None], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._service = service
        self._exchange: Exchange | None = None  # the request on the quick way
        self._later: list[bytes] = []  # what came while it was under way
        self._between = True  # uvicorn's parser is not inside a message
        self._head = b""  # of the message that it parses

    @property
    def limits(self) -> Settings:
        """The service's settings."""
        service = self._service()
        return super().limits if service is None else service.settings

    @property
    def busy(self) -> bool:
        """Whether a request is being answered, on either way."""
        return self._exchange is not None or super().busy

    def data_received(self, data: bytes) -> None:
        """Answer a request whose head is known; leave everything else to uvicorn."""
        if self._exchange is not None:  # answers go out in the order of their requests
            self._later.append(data)
            self.flow.pause_reading()
            return
        if self._between and (self.cycle is None or self.cycle.response_complete):
            end = data.find(END) + len(END)
            raw = data[:end]
            head = self.heads.get(raw)
            if head is not None and head.length == len(data) - end and not self.flow.write_paused:
                service = self._service()
                if service is not None:
                    self._unset_keepalive_if_required()
                    self.stop_waiting()
                    self._exchange = exchange = Exchange(self, service, head)
                    exchange.begin(memoryview(data)[end:])
                    return
            self._head = raw if raw.endswith(END) and end <= HEAD_BYTES else b""
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Note that a message has begun."""
        self._between = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Keep the head where the next request with the same one can take the quick way."""
        super().on_headers_complete()
        raw, self._head = self._head, b""
        service = self._service()
        if not raw or service is None:
            return
        most = service.settings.max_body_bytes
        head = read_head(raw, cast("Scope", self.scope), most)
        if head is not None and service.gate.knows(head.authorization, cast("Scope", self.scope)):
            if len(self.heads) >= HEADS:
                self.heads.clear()
            self.heads[raw] = head

    def on_message_complete(self) -> None:
        """Note that a message has ended."""
        self._between = True
        super().on_message_complete()

    def answered(self, response: Response, request: bytes, *, close: bool) -> None:
        """Write the answer to the request on the quick way, and go on with what came after it."""
        self._exchange = None
        if self.transport.is_closing():
            return
        lines = [STATUS_LINE[response.status]]
        for name, value in (*self.server_state.default_headers, *response.headers):
            lines += (name, b": ", value, b"\r\n")
        lines += (request_id.HEADER, b": ", request, b"\r\ncontent-length: ", str(len(response.body)).encode())
        lines += (b"\r\nconnection: close\r\n\r\n" if close else END, response.body)
        self.transport.write(b"".join(lines))
        if close:
            self.transport.close()
        self.on_response_complete()
        if self._later:
            data = b"".join(self._later)
            self._later.clear()
            self.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the request that nobody waits for any more."""
        if self._exchange is not None:
            self._exchange.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close once the request under way is answered; uvicorn asks for it as it stops."""
        if self._exchange is not None:
            self._exchange.close = True
        else:
            super().shutdown()


class Exchange:
    """One request on the quick way, and what becomes of it (:class:`dlenv_service.batcher.Outcome`)."""

    __slots__ = (
        "_began", "_head", "_item", "_loop", "_protocol", "_request", "_request_id", "_room", "_served", "_service",
        "close",
    )  # fmt: skip

    def __init__(self, protocol: InferenceProtocol, service: Admission[Models], head: Head) -> None:
        self._protocol: InferenceProtocol | None = protocol  # None once it is over
        self._loop = protocol.loop
        self._service = service
        self._head = head
        self._began = time.perf_counter_ns()
        self._served: Model | None = None
        self._room = 0
        self._request: InferRequest | None = None
        self._item: Item | None = None
        self._request_id = b""  # made when it is needed
        self.close = False
        service.in_flight += 1

    def begin(self, body: memoryview) -> None:
        """Check the request and queue its rows, or answer at once with what is wrong."""
        service, head = self._service, self._head
        try:
            keys = service.gate.keys
            if keys is not None:  # on each request: keys are removed, and used up
                keys.check(head.authorization, "infer")
            service.require_started()
            self._served = served = service.host.find(head.model, head.version)
            served.check_room()
            service.take_room(head.length)
            self._room = head.length
            self._request = request = decode(body, head.json_length, served.signature)
            self._item = served.submit(request.rows, request.timeout_us, self, request.reconstruct)
        except Exception as error:  # noqa: BLE001 - every request is answered
            self.set_exception(error)

    def done(self) -> bool:
        """Whether it is answered, or the client has gone."""
        return self._protocol is None

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop of its connection."""
        return self._loop

    def set_result(self, result: Answer) -> None:
        """Answer."""
        assert self._served is not None
        assert self._request is not None
        try:
            check_finite(self._served, result)
            headers, body = encode(self._request, result, self._served.signature, str(self._served.version))
        except Exception as error:  # noqa: BLE001 - every request is answered
            self.set_exception(error)
        else:
            self._end(200, Response(200, headers, body))

    def set_exception(self, exception: BaseException) -> None:
        """Answer with an error."""
        status = exception.status if isinstance(exception, DlenvError) else 500
        self._request_id = request_id.make()
        with request_id.identified(self._request_id):
            self._end(status, self._service.failed(exception, "POST", self._head.path))

    def cancel(self) -> None:
        """The client has gone; its rows are dropped before they reach the device."""
        self._end(CLIENT_CLOSED_REQUEST, None)

    def _end(self, status: int, response: Response | None) -> None:
        protocol, self._protocol = self._protocol, None
        service = self._service
        if self._served is not None:
            statistics = self._served.statistics
            if self._item is not None and self._item.started:
                statistics.waited(self._item.started - self._item.queued)
            statistics.answered(status, time.perf_counter_ns() - self._began)
        service.body_bytes -= self._room
        service.in_flight -= 1
        request = self._request_id or request_id.make()
        if service.tracing is not None:
            work = (
                tracing.Work(self._served, self._item) if self._served is not None and self._item is not None else None
            )
            traced = service.tracing.request("POST", self._head.path, status, self._began, work, request)
            if response is not None:
                response.headers.extend(traced)
        if response is not None and protocol is not None:
            protocol.answered(response, request, close=self.close or service.draining)
