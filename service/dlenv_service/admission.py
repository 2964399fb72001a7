"""What a process that answers HTTP requests keeps count of, and lets in: bodies, requests, errors."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from dlenv.errors import ModelInvalid, ModelNotFound, Overloaded, RequestError, Unavailable
from dlenv_service import request_id, tracing
from dlenv_service.batcher import Array, Item, Outcome
from dlenv_service.config import Settings
from dlenv_service.gate import Gate
from dlenv_service.http import Receive, Response, Scope, Send, header, json_response, other_protocol, problem
from dlenv_service.statistics import Statistics
from dlenv_service.tensors import Signature

__all__ = ["CLOSE", "Admission", "Headers", "Model", "Models"]

log = logging.getLogger("dlenv.service")

CLOSE = ((b"connection", b"close"),)


class Model(Protocol):
    """A model version that answers requests: here, or through the process that owns the device."""

    name: str
    version: int
    signature: Signature
    statistics: Statistics

    def check_room(self) -> None:
        """Refuse a request before its body is read or looked at, where there is no room for a single row.

        Raises:
            Overloaded: the queue is full.
        """

    def submit(self, rows: Array, timeout_us: int | None, outcome: Outcome, reconstruct: bool = False) -> Item:
        """Queue the rows of one request; ``outcome`` will hold the answer, or an error.

        Raises:
            Overloaded: the queue is full.
        """


class Models(Protocol):
    """The models of a process."""

    def find(self, name: str, version: str | None = None) -> Model:
        """A model; the newest version where none is given.

        Raises:
            ModelNotFound: it isn't loaded; names what is.
        """


Headers = tuple[tuple[bytes, bytes], ...]
M_co = TypeVar("M_co", bound=Models, covariant=True)


class Admission(ABC, Generic[M_co]):
    """What answers HTTP requests in one process: :class:`dlenv_service.asgi.Service`, or a front of it."""

    def __init__(self, settings: Settings, host: M_co) -> None:
        self.settings = settings
        self.gate = Gate(settings)
        self.tracing = tracing.start(settings)
        self.host = host
        self.errors: Counter[int] = Counter()  # answers with an error, by status
        self.in_flight = 0  # requests that have arrived and are not answered completely
        self.body_bytes = 0  # that requests which wait hold
        self.started = False
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: an ASGI application."""
        if scope["type"] != "http":
            await other_protocol(scope, receive, send)
            return
        if self.tracing is not None:
            self.tracing.arrived(scope)
        self.in_flight += 1
        try:
            response, extra = await self.answer(scope, receive)
            # What a front has from the main process, that has traced.
            if self.tracing is not None and tracing.HEADERS[0] not in dict(response.headers):
                extra = (*extra, *self.tracing.answered(scope, response.status))
            await response.send(send, extra)
        finally:
            self.in_flight -= 1

    @abstractmethod
    async def answer(self, scope: Scope, receive: Receive) -> tuple[Response, Headers]:
        """The answer to a request, and the headers that it gets beside its own."""

    def extra_headers(self, scope: Scope) -> Headers:
        """Headers of every answer to a request, whatever it was."""
        return (*(CLOSE if self.draining else ()), *self.gate.headers(scope), *request_id.headers(scope))

    @contextmanager
    def room(self, scope: Scope) -> Iterator[Callable[[int, bool], None]]:
        """Keep memory for a request's body while the request is read and waits; what is given takes some of it.

        What has arrived counts, not what a client says will come: else a few of them that send nothing would keep out
        everybody.

        Raises:
            Overloaded: the bodies of all requests together would take too much.
        """
        declared = header(scope, b"content-length")
        if declared is not None and declared.isascii() and declared.isdigit():
            # Refused before it is sent. A longer one than is allowed is refused when it is read.
            self._check_room(min(int(declared), self.settings.max_body_bytes), more=False)
        held = 0

        def take(size: int, more: bool) -> None:
            nonlocal held
            self.take_room(size, more=more)
            held += size

        try:
            yield take
        finally:
            self.body_bytes -= held

    def take_room(self, size: int, *, more: bool = False) -> None:
        """Add ``size`` bytes to ``body_bytes``; whoever takes them gives them back by subtraction.

        Args:
            size: what has arrived of a body.
            more: the rest of it is on its way.

        Raises:
            Overloaded: there is no room for them.
        """
        self._check_room(size, more=more)
        self.body_bytes += size

    def _check_room(self, size: int, *, more: bool) -> None:
        most = self.settings.max_pending_bytes
        if more:  # bodies that come slowly leave a quarter to those that are there at once
            most = max(most - most // 4, self.settings.max_body_bytes)
        if self.body_bytes + size > most:
            raise Overloaded(
                f"the bodies of waiting requests take {self.body_bytes} bytes and {size} more would pass the limit of "
                f"{most}; try again in 1 s",
                1,
            )

    def require_started(self) -> None:
        """Refuse a request that comes before the models are loaded or after they are gone.

        Raises:
            Unavailable: always then.
        """
        if not self.started:
            raise Unavailable("the service is not ready; ask /v2/health/ready and try again in a moment")

    def failed(self, error: BaseException, method: str, path: str) -> Response:
        """The answer to a request that ended with an error, which is counted."""
        if isinstance(error, RequestError | ModelInvalid | ModelNotFound):
            self.errors[error.status] += 1
            return problem(error)
        # Other errors of ours too: their texts are for who runs the service, and name its folders. The client learns
        # nothing of the service's insides; the log has it all.
        log.error("%s %s failed", method, ascii(path), exc_info=error)
        self.errors[500] += 1
        return json_response({"error": "the service failed to answer this request; its log says why"}, 500)
