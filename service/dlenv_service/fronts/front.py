"""What runs in a front's process, which :mod:`dlenv_service.fronts.process` starts.

It imports no torch, so it starts in a second and takes little memory. It ends when it is told to drain, or when the
main process goes away; signals are the main process's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import signal
import socket
import time

import uvicorn

from dlenv.errors import DlenvError
from dlenv_service import inference, logs, request_id, routes
from dlenv_service.access import Entry
from dlenv_service.admission import CLOSE, Admission, Headers
from dlenv_service.config import Settings, load_settings
from dlenv_service.fronts.relay import Relay
from dlenv_service.fronts.remote import RemoteHost
from dlenv_service.fronts.wire import Channel, Counts, Done, Drain, Failed, Memory, Message, Models, Ready, Start
from dlenv_service.http import Receive, Response, Scope, read_body
from dlenv_service.server import Server, configure

__all__ = ["Front", "main"]

log = logging.getLogger("dlenv.service")

# How often counts go to the main process, and requests past their deadline are looked for.
TICK_S = 0.05
SIGN_OF_LIFE = 20  # ticks after which the main process is told something in any case
WELCOMED = 64  # connections taken in one go, before those that there are get their turn


class Front(Admission[RemoteHost]):
    """An ASGI application: inference by the models of the main process, everything else by the main process."""

    def __init__(self, settings: Settings, host: RemoteHost, relay: Relay) -> None:
        super().__init__(settings, host)
        self._relay = relay
        self._relayed = 0  # requests that the main process counts
        self._told: Counts | None = None

    async def answer(self, scope: Scope, receive: Receive) -> tuple[Response, Headers]:
        """The answer to a request, and the headers that it gets beside its own."""
        arguments: dict[str, str] = {}
        handler = None
        with contextlib.suppress(DlenvError):  # the main process says it
            handler, arguments = routes.resolve(scope["method"], scope["path"])
        if handler is inference.infer:
            with request_id.identified(request_id.of(scope)):
                return await self._infer(scope, receive, arguments), self.extra_headers(scope)
        entry = routes.ENTRIES[handler] if handler is not None else None
        return await self._pass_on(scope, receive, entry), CLOSE if self.draining else ()

    async def _infer(self, scope: Scope, receive: Receive, arguments: dict[str, str]) -> Response:
        try:
            self.gate.enter(scope, routes.ENTRIES[inference.infer])
            return await inference.infer(self, scope, receive, **arguments)
        except Exception as error:  # noqa: BLE001 - every request is answered
            return self.failed(error, scope["method"], scope["path"])

    async def _pass_on(self, scope: Scope, receive: Receive, entry: Entry | None) -> Response:
        self._relayed += 1
        try:
            self.tell()  # so that the main process answers with what this client has seen
            if entry is None or entry.access == "open":  # it reads no body for these
                return await self._relay.ask(scope, b"", is_open=True)
            self.gate.enter(scope, entry)  # before the body is read; the main process does it once more
            with self.room(scope) as take:
                body = await read_body(
                    scope, receive, self.settings.max_body_bytes, self.settings.body_timeout_ms, take
                )
                return await self._relay.ask(scope, body)
        except Exception as error:  # noqa: BLE001 - every request is answered
            response = self.failed(error, scope["method"], scope["path"])
            response.headers += (*self.gate.headers(scope), *request_id.headers(scope))
            return response
        finally:
            self._relayed -= 1

    def tell(self, *, always: bool = False) -> None:
        """Tell the main process what was counted since it was last told, and what is held now, if it is news."""
        models = self.host.all()
        counts = Counts(
            {model.key: model.statistics.take() for model in models if model.statistics.requests},
            dict(self.errors),
            self.in_flight - self._relayed,
            {model.key: model.batcher.rows for model in models if model.batcher.rows},
        )
        self.errors.clear()
        if always or counts.models or counts.errors or counts != self._told:
            self._told = counts
            self.host.tell(counts)


class Process:
    """The front's life: connections and messages come in, until it is told to drain."""

    def __init__(self, memory: Memory, door: socket.socket) -> None:
        self._memory = memory
        self._door = door
        self._channel = Channel(self._heard, self._abandoned)
        self._began: asyncio.Future[Start] = asyncio.get_running_loop().create_future()
        self._draining = asyncio.Event()
        self._host: RemoteHost | None = None
        self._first: Models | None = None

    async def run(self, channel: socket.socket) -> None:
        """Serve until it is told to drain."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self._channel, sock=channel)
        start = await self._began
        settings = load_settings(start.settings)
        logs.set_up_replica(settings)
        self._host = host = RemoteHost(settings, self._memory, self._channel.say)
        if self._first is not None:
            host.apply(self._first)
        relay = Relay(start.relay)
        front = Front(settings, host, relay)
        config = configure(front)
        server = Server(config)
        serving = loop.create_task(server.serve(sockets=[]))
        while not server.started and not serving.done():
            await asyncio.sleep(0)
        front.started = True
        gc.collect()
        gc.freeze()  # as Service.startup does, and why
        ticking = loop.create_task(self._tick(front))
        ticking.add_done_callback(_end_where_it_failed)
        self._door.setblocking(False)
        loop.add_reader(self._door, self._welcome, server)
        self._channel.say(Ready())
        await self._draining.wait()
        self._welcome(server)
        front.draining = True
        until = loop.time() + settings.drain_timeout_ms / 1000
        while front.in_flight and loop.time() < until:
            await asyncio.sleep(0.005)
        server.should_exit = True
        await serving
        host.close()
        ticking.cancel()
        front.tell()
        if front.tracing is not None:
            await asyncio.to_thread(front.tracing.close)
        await relay.close()
        self._channel.close()
        await asyncio.sleep(0)

    def _heard(self, message: Message) -> None:
        if isinstance(message, Start):
            self._began.set_result(message)
        elif isinstance(message, Drain):
            self._draining.set()
        elif self._host is None:
            assert isinstance(message, Models)
            self._first = message
        elif isinstance(message, Done):
            self._host.done(message)
        elif isinstance(message, Failed):
            self._host.failed(message)
        elif isinstance(message, Models):
            self._host.apply(message)

    def _abandoned(self) -> None:
        if not self._draining.is_set():
            os._exit(1)  # nobody is left to answer what waits

    def _welcome(self, server: Server) -> None:
        """Take connections that the main process has accepted; called again while there are more."""
        for _ in range(WELCOMED):
            try:
                data, descriptors, _, _ = socket.recv_fds(self._door, 1, 1)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            if not data:  # the main process has gone
                asyncio.get_running_loop().remove_reader(self._door)
                return
            if not descriptors:
                log.error("a connection was lost: this process has no descriptor left; raise its limit (ulimit -n)")
                continue
            connection = socket.socket(fileno=descriptors[0])
            connection.setblocking(False)
            server.welcome(connection)

    async def _tick(self, front: Front) -> None:
        for tick in itertools.count():
            await asyncio.sleep(TICK_S)
            front.host.expire(time.perf_counter_ns())
            front.tell(always=tick % SIGN_OF_LIFE == 0)


def _end_where_it_failed(task: asyncio.Task[None]) -> None:
    """End the process: without its ticks no deadline holds."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("this front fails", exc_info=error)
        os._exit(1)


def main(*words: str) -> None:
    """Run a front on three descriptors (channel, door, memory), with slots of so many bytes."""
    channel, door, memory, size = map(int, words)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    async def run() -> None:
        process = Process(Memory(memory, size), socket.socket(fileno=door))
        await process.run(socket.socket(fileno=channel))

    factory = uvicorn.Config("", log_config=None).get_loop_factory() or asyncio.new_event_loop
    loop = factory()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(run())
    finally:
        loop.close()
