"""What a process that answers HTTP requests keeps count of, and lets in: bodies, requests, errors."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from dlenv.errors import ModelInvalid, ModelNotFound, Overloaded, RequestError, Unavailable
from dlenv_service.config import Settings
from dlenv_service.gate import Gate
from dlenv_service.http import Response, Scope, header, json_response, problem

__all__ = ["CLOSE", "Admission"]

log = logging.getLogger("dlenv.service")

CLOSE = ((b"connection", b"close"),)


class Admission:
    """The part of a service that needs no model: :class:`dlenv_service.asgi.Service` and fronts are such."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.errors: Counter[int] = Counter()  # answers with an error, by status
        self.in_flight = 0  # requests that have arrived and are not answered completely
        self.body_bytes = 0  # that requests which wait may hold
        self.started = False
        self.draining = False

    @contextmanager
    def room(self, scope: Scope) -> Iterator[None]:
        """Keep memory for a request's body while the request is read and waits.

        Raises:
            Overloaded: the bodies of all requests together would take too much.
        """
        most = self.settings.max_body_bytes
        declared = header(scope, b"content-length")
        # A body without a length may turn out to have any that is allowed; a longer one is refused when it is read.
        size = min(int(declared), most) if declared is not None and declared.isascii() and declared.isdigit() else most
        self.take_room(size)
        try:
            yield
        finally:
            self.body_bytes -= size

    def take_room(self, size: int) -> None:
        """Add ``size`` bytes to ``body_bytes``; whoever takes them gives them back by subtraction.

        Raises:
            Overloaded: there is no room for them.
        """
        if self.body_bytes + size > self.settings.max_pending_bytes:
            raise Overloaded(
                f"the bodies of waiting requests take {self.body_bytes} bytes and {size} more would pass the limit of "
                f"{self.settings.max_pending_bytes}; try again in 1 s",
                1,
            )
        self.body_bytes += size

    def require_started(self) -> None:
        """Refuse a request that comes before the models are loaded or after they are gone.
        self.gate = Gate(settings)

        Raises:
            Unavailable: always then.
        """
        if not self.started:
            raise Unavailable("the service is not ready; ask /v2/health/ready and try again in a moment")

    def extra_headers(self, scope: Scope) -> tuple[tuple[bytes, bytes], ...]:
        """Headers of every answer to a request, whatever it was."""
        return (*(CLOSE if self.draining else ()), *self.gate.headers(scope))

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
