"""uvicorn's server as it is run here."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from functools import partial

import uvicorn

from dlenv_service.admission import Admission, Models
from dlenv_service.listener import BACKLOG
from dlenv_service.protocol import InferenceProtocol

__all__ = ["Server", "configure"]

# How long a connection that was accepted has to say what it came for, once no new ones are.
LAST_WORDS_S = 1.0


class Server(uvicorn.Server):
    """uvicorn's server without its signal handling: the service has to drain first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # noqa: D102 - uvicorn's
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what the open connections still send, and then close them.

        uvicorn closes a connection at once that was accepted but has not sent its request yet, and the request with
        it. Each answer carries ``Connection: close`` by now, so the connections in use go by themselves.
        """
        until = time.monotonic() + LAST_WORDS_S
        while self.server_state.connections and time.monotonic() < until:
            await asyncio.sleep(0.005)
        await super().shutdown(sockets)


def configure(service: Admission[Models], *, relayed: bool = False) -> uvicorn.Config:
    """uvicorn's configuration for a service; ``relayed``: only its own fronts can reach it."""
    settings = service.settings
    config = uvicorn.Config(
        service,  # type: ignore[arg-type] # what answers HTTP is callable as uvicorn wants it
        http=partial(InferenceProtocol, service=lambda: service),  # type: ignore[arg-type] # it only calls it
        lifespan="off",
        access_log=False,
        log_level=settings.log_level,
        log_config=None,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=max(1, settings.drain_timeout_ms // 1000),
        forwarded_allow_ips="*" if relayed else None,
    )
    config.load()
    return config
