"""The identity of a request, for whoever follows it through several services: ``X-Request-Id``, taken in and sent out.

Every answer of the service carries one: the client's, or a new one where it sent none, or one that is no good.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from dlenv_service.http import Receive, Scope, Send

__all__ = ["HEADER", "behind_serve", "current", "hand_over", "headers", "identified", "make", "of"]

App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADER = b"x-request-id"
LONGEST = 128
# In the scope: the request's id, and whether somebody further out sends it with the answer.
ID = "dlenv.request_id"
SENT = "dlenv.request_id_sent"

current: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that this task answers, for log lines."""


# Random once for a process, and counted from there: to ask the system for random bytes would take longer than all else
# that the quick way does for a request's head.
_process = secrets.token_hex(8).encode()
_numbers = itertools.count(1)


def make() -> bytes:
    """A new id."""
    return b"%s%016x" % (_process, next(_numbers))


def of(scope: Scope) -> bytes:
    """The id of a request: what its client sent, if that is 1 to 128 printable ASCII characters, else a new one."""
    known: bytes | None = scope.get(ID)
    if known is None:
        given = [value for name, value in scope["headers"] if name == HEADER]
        known = scope[ID] = given[0] if len(given) == 1 and _is_good(given[0]) else make()
    return known


def headers(scope: Scope) -> tuple[tuple[bytes, bytes], ...]:
    """The header of the answer."""
    return () if scope.get(SENT) else ((HEADER, of(scope)),)


def hand_over(scope: Scope) -> None:
    """Give the request to Ray Serve, which sends the id that it finds with the answer, and checks nothing.

    See ``RequestIdMiddleware`` in ray/serve/_private/http_util.py.
    """
    others = [(name, value) for name, value in scope["headers"] if name != HEADER]
    scope["headers"] = [*others, (HEADER, of(scope))]


def behind_serve(app: App) -> App:
    """The application for requests that come from Ray Serve, which sends the id with the answer itself."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        scope[SENT] = True
        await app(scope, receive, send)

    return answer


@contextmanager
def identified(request: bytes) -> Iterator[None]:
    """Name the request in what is logged meanwhile."""
    token = current.set(request.decode("ascii"))
    try:
        yield
    finally:
        current.reset(token)


def _is_good(value: bytes) -> bool:
    return 0 < len(value) <= LONGEST and value.isascii() and value.decode("ascii").isprintable()
