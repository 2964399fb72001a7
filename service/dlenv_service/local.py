"""``--runtime local``: the same application in one uvicorn process, for a quick try and for tests without Ray."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from dlenv_service.asgi import Service
from dlenv_service.config import Settings
from dlenv_service.fronts.keeper import Fronts
from dlenv_service.listener import bind, refuse_new
from dlenv_service.server import AdminServer, Config, Server, configure

__all__ = ["run"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(settings: Settings, say: Callable[[str], None]) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code.

    Raises:
        DlenvError: it can't start.
    """
    listener = bind(settings.host, settings.port)
    service = Service(settings)
    config = configure(service, relayed=settings.fronts > 0)
    admin = AdminServer(service) if settings.admin_address is not None else None
    with listener, asyncio_runner(config) as loop:
        loop.run_until_complete(_serve(config, listener, admin, settings, say))
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
    config: Config,
    listener: socket.socket,
    admin: AdminServer | None,
    settings: Settings,
    say: Callable[[str], None],
) -> None:
    service: Service = config.app  # type: ignore[assignment]
    server = Server(config)
    fronts = Fronts(service) if settings.fronts else None
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        # signal.signal, not loop.add_signal_handler, which Windows doesn't have.
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(_stop, stopping))
    try:
        await service.startup()
        names = ", ".join(sorted({served.name for served in service.host.loaded()}))
        serving = loop.create_task(server.serve(sockets=[await fronts.start() if fronts else listener]))
        if fronts:
            fronts.open(listener)
        if admin:
            await admin.start()
        say(f"Serving {names} on {settings.url} ({service.host.device}); Ctrl-C stops")
        await asyncio.wait({serving, loop.create_task(stopping.wait())}, return_when=asyncio.FIRST_COMPLETED)
        say("Draining ...")
        draining = loop.create_task(service.drain())
        await asyncio.sleep(0)  # answers say `Connection: close` from now on
        if fronts:
            await fronts.drain()
        await refuse_new(server, *await server.stop_accepting())
        await draining
        if admin:
            await admin.stop()
        server.should_exit = True
        await serving
    finally:
        if fronts:
            await fronts.close()
        await service.close()
        for number in SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    say("Stopped.")


def _stop(stopping: asyncio.Event) -> None:
    """Begin to stop; a second signal ends the process at once."""
    if stopping.is_set():
        os._exit(130)
    stopping.set()
