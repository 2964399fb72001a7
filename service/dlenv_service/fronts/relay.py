"""From a front to the main process: a request that the front itself has no answer to.

httpcore, httpx's lower half, leaves the target and the headers as they came.
"""

from __future__ import annotations

import httpcore

from dlenv.errors import RequestError, Unavailable
from dlenv_service.http import Response, Scope, header

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
REPLACED = frozenset((b"x-forwarded-for", b"x-forwarded-proto", b"host"))
CONNECTIONS = 64  # at once; further requests wait for one
OPEN_CONNECTIONS = 8  # beside these: probes of load balancers wait for nobody's images
IDLE_S = 2.0  # uvicorn closes idle connections after 5 s: one that it may be about to close is not used
CONNECT_S = 5.0


class Relay:
    """Passes requests on to what listens on the Unix socket ``path``."""

    def __init__(self, path: str) -> None:
        self._pools = [
            httpcore.AsyncConnectionPool(
                uds=path, max_connections=most, max_keepalive_connections=min(most, 16), keepalive_expiry=IDLE_S
            )
            for most in (CONNECTIONS, OPEN_CONNECTIONS)
        ]

    async def ask(self, scope: Scope, body: bytes, *, is_open: bool = False) -> Response:
        """The main process's answer.

        Args:
            scope: the request.
            body: its body.
            is_open: the request asks nothing of a model and nobody for a key.

        Raises:
            RequestError: a header can't be passed on.
            Unavailable: it does not answer.
        """
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        headers = [(name, value) for name, value in _passed_on(scope["headers"]) if name not in REPLACED]
        # HTTP/1.1 wants exactly one; HTTP/1.0, which HAProxy's health checks speak, none.
        headers.append((b"host", (header(scope, b"host") or "main").strip().encode("latin-1")))
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
            response = await self._pools[is_open].handle_async_request(request)
            try:
                content = await response.aread()
            finally:
                await response.aclose()
        except httpcore.LocalProtocolError as error:
            raise RequestError(f"the request can't be passed on: {error}") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
            raise Unavailable("the service did not answer; send the request again in a moment") from None
        return Response(response.status, _passed_on(response.headers), content)

    async def close(self) -> None:
        """Hang up."""
        for pool in self._pools:
            await pool.aclose()


def _passed_on(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    lowered = ((name.lower(), value.strip()) for name, value in headers)
    return [(name, value) for name, value in lowered if name not in NOT_PASSED_ON]
