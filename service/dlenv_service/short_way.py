"""The short way in: what the replica's own HTTP process answers without going through Serve.

Serve wraps every request in about 0.7 ms of Python. ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`` names
:func:`middlewares`, and Serve puts what it returns around each of its HTTP servers: the one in the replica's process
(ray/serve/_private/replica.py, ``_maybe_start_direct_ingress_servers``) and the one in its Python proxy
(ray/serve/_private/proxy.py). In a replica, requests that the service can answer go straight to it; everything else,
and everything in a process that has no service, goes on through Serve. Without the hook all still works, slower.

Serve's own middleware, further in, sends ``X-Request-Id`` with its answers; on the short way the service does.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from starlette.middleware import Middleware

from dlenv_service import request_id

__all__ = ["HOOK", "HOOK_ONLY_THIS_MACHINE", "ShortWay", "adopt", "adopted", "middlewares", "only_this_machine"]

HOOK = "dlenv_service.short_way:middlewares"
HOOK_ONLY_THIS_MACHINE = "dlenv_service.short_way:only_this_machine"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Answers(Protocol):
    """What the short way needs of a service."""

    def answers_here(self, scope: Scope) -> bool:
        """Whether this replica can answer the request without Serve."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer it."""


_service: Answers | None = None


def adopt(service: Answers | None) -> None:
    """Make ``service`` the one that this process answers with; ``None`` sends every request through Serve."""
    global _service
    _service = service


def adopted() -> Answers | None:
    """The service that this process answers with."""
    return _service


class ShortWay:
    """ASGI middleware: to the service where it answers here, else on through Serve."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        service = _service
        if service is not None and service.answers_here(scope):
            await service(scope, receive, send)
        else:
            if scope["type"] == "http":
                request_id.hand_over(scope)
            await self.app(scope, receive, send)


class OnlyThisMachine:
    """ASGI middleware: refuses clients from elsewhere, for the proxy that Serve insists on starting.

    Serve binds its Python proxy to the service's host, so with ``--host 0.0.0.0`` a second, unannounced port would
    answer the network. Where one replica answers on the public port itself, nobody needs that proxy.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _service is None and not _is_loopback(scope.get("client")):
            body = b'{"error":"this port serves only its own machine; use the port that the service announced"}'
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await self.app(scope, receive, send)


def _is_loopback(client: Any) -> bool:
    try:
        return client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


def middlewares() -> list[Middleware]:
    """The hook itself; Serve applies the list from the inside out."""
    return [Middleware(ShortWay)]


def only_this_machine() -> list[Middleware]:
    """The hook where the public port belongs to the one replica: the proxy answers nobody from outside."""
    return [Middleware(ShortWay), Middleware(OnlyThisMachine)]
