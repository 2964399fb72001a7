"""``--runtime local``: the same application in one uvicorn process, for a quick try and for tests without Ray."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial

import uvicorn

from dlenv_service.asgi import Service
from dlenv_service.config import Settings
from dlenv_service.listener import BACKLOG, bind, refuse_new
from dlenv_service.protocol import InferenceProtocol

__all__ = ["run"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# How long a connection that was accepted has to say what it came for, once no new ones are.
LAST_WORDS_S = 1.0


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handling: the service has to drain first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
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


def run(settings: Settings, say: Callable[[str], None]) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code.

    Raises:
        DlenvError: it can't start.
    """
    listener = bind(settings.host, settings.port)
    service = Service(settings)
    config = uvicorn.Config(
        service,
        http=partial(InferenceProtocol, service=lambda: service),  # type: ignore[arg-type] # it only calls it
        lifespan="off",
        access_log=False,
        log_level=settings.log_level,
        log_config=None,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=max(1, settings.drain_timeout_ms // 1000),
    )
    config.load()
    with listener, asyncio_runner(config) as loop:
        loop.run_until_complete(_serve(config, listener, settings, say))
    return 0


@contextlib.contextmanager
def asyncio_runner(config: uvicorn.Config) -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop of the kind that uvicorn picks (uvloop where it is installed), closed at the end."""
    factory = config.get_loop_factory() or asyncio.new_event_loop
    loop = factory()
    asyncio.set_event_loop(loop)
    try:
        yield loop
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        asyncio.set_event_loop(None)
        loop.close()


async def _serve(
    config: uvicorn.Config, listener: socket.socket, settings: Settings, say: Callable[[str], None]
) -> None:
    service: Service = config.app  # type: ignore[assignment]
    server = _Server(config)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        # signal.signal, not loop.add_signal_handler, which Windows doesn't have.
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(_stop, stopping))
    try:
        await service.startup()
        names = ", ".join(sorted({served.name for served in service.host.loaded()}))
        serving = loop.create_task(server.serve(sockets=[listener]))
        say(f"Serving {names} on {settings.url} ({service.host.device}); Ctrl-C stops")
        await asyncio.wait({serving, loop.create_task(stopping.wait())}, return_when=asyncio.FIRST_COMPLETED)
        say("Draining ...")
        draining = loop.create_task(service.drain())
        await asyncio.sleep(0)  # answers say `Connection: close` from now on
        await refuse_new(server)
        await draining
        server.should_exit = True
        await serving
    finally:
        await service.close()
        for number in SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    say("Stopped.")


def _stop(stopping: asyncio.Event) -> None:
    """Begin to stop; a second signal ends the process at once."""
    if stopping.is_set():
        os._exit(130)
    stopping.set()
