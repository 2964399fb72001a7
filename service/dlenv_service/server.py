"""uvicorn's server as it is run here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import uvicorn

from dlenv_service import exposure
from dlenv_service.admission import Admission, Models
from dlenv_service.config import Settings
from dlenv_service.gate import ADMIN_ADDRESS
from dlenv_service.http import Receive, Scope, Send
from dlenv_service.limited import most_connections
from dlenv_service.listener import BACKLOG, bind, connect
from dlenv_service.protocol import InferenceProtocol
from dlenv_service.tls import Certificate

__all__ = ["AdminServer", "Server", "configure"]

log = logging.getLogger("dlenv.service")

# How long a connection that was accepted has to say what it came for, once no new ones are.
LAST_WORDS_S = 1.0
OUT_OF_DESCRIPTORS_S = 1.0  # after which connections are accepted again


class Config(uvicorn.Config):
    """uvicorn's configuration, with the service's own, and a certificate that may change."""

    settings: Settings
    certificate: Certificate | None = None


class Server(uvicorn.Server):
    """uvicorn's server without its signal handling, since the service has to drain first, and with limits for TLS.

    asyncio's own way would let connections without number, uncounted, take a minute each for their handshakes.
    """

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._accepting: dict[socket.socket, asyncio.Task[None]] = {}
        self._handshakes: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; with TLS, accept connections here."""
        if self.config.ssl is None or sockets is None:
            await super().startup(sockets)
            return
        await super().startup([])
        for each in sockets:
            each.setblocking(False)
            self._accepting[each] = asyncio.create_task(self._accept(each))

    def welcome(self, connection: socket.socket) -> None:
        """Serve a connection that was accepted, unless there are too many handshakes; others are told with words."""
        settings, state = self.config.settings, self.server_state
        tasks = state.tasks
        if self.config.ssl is not None:
            tasks = self._handshakes
            if len(state.connections) + len(tasks) >= most_connections(settings.max_connections):
                connection.close()
                return
        task = asyncio.create_task(connect(self, connection, settings.header_timeout_ms / 1000))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def stop_accepting(self) -> list[socket.socket]:
        """Accept no more; the sockets, which still listen."""
        accepting, self._accepting = self._accepting, {}
        for task in accepting.values():
            task.cancel()
        await asyncio.gather(*accepting.values(), return_exceptions=True)
        return list(accepting)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except ConnectionAbortedError:
                continue
            except OSError as error:  # no descriptor is left, and the connection still waits: don't spin
                log.error("can't accept a connection: %s", error.strerror)
                await asyncio.sleep(OUT_OF_DESCRIPTORS_S)
                continue
            self.welcome(connection)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # noqa: D102 - uvicorn's
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what the open connections still send, and then close them.

        uvicorn closes a connection at once that was accepted but has not sent its request yet, and the request with
        it. Each answer carries ``Connection: close`` by now, so the connections in use go by themselves.
        """
        await self.stop_accepting()
        until = time.monotonic() + LAST_WORDS_S
        while (self.server_state.connections or self._handshakes) and time.monotonic() < until:
            await asyncio.sleep(0.005)
        for task in self._handshakes:
            task.cancel()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Look after the certificate; uvicorn calls this ten times a second."""
        if self.config.certificate is not None:
            self.config.certificate.look()
        return await super().on_tick(counter)


class AdminServer:
    """The service on ``--admin-address``: there it also answers what it does not answer elsewhere then.

    Raises:
        StartError: the address can't be had.
    """

    def __init__(self, service: Admission[Models]) -> None:
        host, port = exposure.host_and_port(str(service.settings.admin_address))
        self._listener = bind(host, port)
        self._server = Server(configure(service, admin=True))
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Answer there from now on."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(0.001)

    async def stop(self) -> None:
        """Answer what was accepted, and close the address."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving
        self._listener.close()


class _AtAdminAddress:
    """ASGI application: marks what came to the admin address."""

    def __init__(self, service: Any) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[ADMIN_ADDRESS] = True
        await self._service(scope, receive, send)


def configure(service: Admission[Models], *, relayed: bool = False, admin: bool = False) -> Config:
    """uvicorn's configuration for a service.

    Args:
        service: what answers.
        relayed: only its own fronts can reach it.
        admin: it is for the admin address.

    Raises:
        StartError: the certificate can't be used.
    """
    settings = service.settings
    config = Config(
        _AtAdminAddress(service) if admin else service,
        http=partial(InferenceProtocol, service=lambda: service),  # type: ignore[arg-type] # it only calls it
        lifespan="off",
        ws="none",  # an upgraded connection would leave our protocol, and with it all limits
        access_log=False,
        log_level=settings.log_level,
        log_config=None,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=max(1, settings.drain_timeout_ms // 1000),
        forwarded_allow_ips="*" if relayed else None,
    )
    config.settings = settings
    config.load()
    if settings.tls_certificate is not None:
        # Not uvicorn's own context, which can't be changed later and takes ciphers of the last millennium.
        certificate = Certificate(settings.tls_certificate, settings.tls_key)
        if not relayed:  # else fronts show it, and this is only for its errors
            config.certificate, config.ssl = certificate, certificate.context
    return config
