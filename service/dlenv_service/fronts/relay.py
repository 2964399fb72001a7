"""From a front to the main process: a request that the front itself has no answer to.

httpcore, httpx's lower half, leaves the target and the headers as they came.
"""

from __future__ import annotations

import httpcore

from dlenv.errors import Unavailable
from dlenv_service.http import Response, Scope

__all__ = ["Relay"]

# Headers about one connection and not about the request or the answer (RFC 9110, 7.6.1), and those that whoever sends
# the message writes itself: its length, the date, and `expect`, which was answered by asking for the body.
NOT_PASSED_ON = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
        *(b"content-length", b"date", b"expect"),
    )
)
# uvicorn in the main process takes the client's address from these, so nobody else may have written them.
FORWARDED = frozenset((b"x-forwarded-for", b"x-forwarded-proto"))
CONNECT_S = 5.0


class Relay:
    """Passes requests on to what listens on the Unix socket ``path``."""

    def __init__(self, path: str) -> None:
        self._pool = httpcore.AsyncConnectionPool(uds=path, max_connections=None, max_keepalive_connections=16)

    async def ask(self, scope: Scope, body: bytes) -> Response:
        """The main process's answer.

        Raises:
            Unavailable: it does not answer.
        """
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        headers = [(name, value) for name, value in _passed_on(scope["headers"]) if name not in FORWARDED]
        if scope.get("client"):
            headers.append((b"x-forwarded-for", scope["client"][0].encode()))
        headers.append((b"x-forwarded-proto", scope["scheme"].encode()))
        if body or scope["method"] in ("POST", "PUT", "PATCH"):
            headers.append((b"content-length", str(len(body)).encode()))
        request = httpcore.Request(
            # Whoever writes the answer to a HEAD leaves the body out, and needs it to tell its length.
            "GET" if scope["method"] == "HEAD" else scope["method"],
            httpcore.URL(scheme=b"http", host=b"main", port=None, target=target),
            headers=headers,
            content=body,
            extensions={"timeout": {"connect": CONNECT_S}},
        )
        try:
            response = await self._pool.handle_async_request(request)
            try:
                content = await response.aread()
            finally:
                await response.aclose()
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
            raise Unavailable("the service did not answer; send the request again in a moment") from None
        return Response(response.status, _passed_on(response.headers), content)

    async def close(self) -> None:
        """Hang up."""
        await self._pool.aclose()


def _passed_on(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    lowered = ((name.lower(), value) for name, value in headers)
    return [(name, value) for name, value in lowered if name not in NOT_PASSED_ON]
