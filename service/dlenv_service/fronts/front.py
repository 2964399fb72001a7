"""A front's process: ``python -m dlenv_service.fronts.front``, started by :mod:`dlenv_service.fronts.keeper`.

It imports no torch, so it starts in a second and takes little memory. It ends when it is told to drain, or when the
main process goes away; signals are the main process's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import time

import uvicorn

from dlenv.errors import DlenvError
from dlenv_service import inference, logs, request_id, routes
from dlenv_service.access import Entry
from dlenv_service.admission import CLOSE, Admission
from dlenv_service.config import Settings, load_settings
from dlenv_service.fronts.relay import Relay
from dlenv_service.fronts.remote import RemoteHost
from dlenv_service.fronts.wire import Channel, Counts, Done, Drain, Failed, Memory, Message, Models, Ready, Start
from dlenv_service.gate import credentials
from dlenv_service.http import Receive, Response, Scope, Send, read_body
from dlenv_service.listener import connect
from dlenv_service.server import Server, configure

__all__ = ["Front"]

# How often counts go to the main process, and requests past their deadline are looked for.
TICK_S = 0.05


class Front(Admission[RemoteHost]):
    """An ASGI application: inference by the models of the main process, everything else by the main process."""

    def __init__(self, settings: Settings, host: RemoteHost, relay: Relay) -> None:
        super().__init__(settings, host)
        self._relay = relay

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        self.in_flight += 1
        try:
            arguments: dict[str, str] = {}
            handler = None
            with contextlib.suppress(DlenvError):  # the main process says it
                handler, arguments = routes.resolve(scope["method"], scope["path"])
            if handler is inference.infer:
                with request_id.identified(request_id.of(scope)):
                    response = await self._infer(scope, receive, arguments)
                extra = self.extra_headers(scope)
            else:
                entry = routes.ENTRIES[handler] if handler is not None else None
                response, extra = await self._pass_on(scope, receive, entry), CLOSE if self.draining else ()
            await response.send(send, extra)
        finally:
            self.in_flight -= 1

    async def _infer(self, scope: Scope, receive: Receive, arguments: dict[str, str]) -> Response:
        try:
            self.gate.enter(scope, routes.ENTRIES[inference.infer])
            return await inference.infer(self, scope, receive, **arguments)
        except Exception as error:  # noqa: BLE001 - every request is answered
            return self.failed(error, scope["method"], scope["path"])

    async def _pass_on(self, scope: Scope, receive: Receive, entry: Entry | None) -> Response:
        try:
            keys = self.gate.keys
            if keys is not None and entry is not None and keys.name(credentials(scope)) is None:
                self.gate.enter(scope, entry)  # refuses before the body is read; the main process checks the rest
            with self.room(scope):
                body = await read_body(scope, receive, self.settings.max_body_bytes, self.settings.body_timeout_ms)
                self.host.tell(self.counts())  # so that the main process answers with what this client has seen
                return await self._relay.ask(scope, body)
        except Exception as error:  # noqa: BLE001 - every request is answered
            response = self.failed(error, scope["method"], scope["path"])
            response.headers += request_id.headers(scope)
            return response

    def counts(self) -> Counts:
        """What was counted since this was last called, and what is held now."""
        models = self.host.all()
        errors = dict(self.errors)
        self.errors.clear()
        return Counts(
            {model.key: model.statistics.take() for model in models if model.statistics.requests},
            errors,
            self.in_flight,
            {model.key: model.batcher.rows for model in models if model.batcher.rows},
        )


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
        while not server.started:
            await asyncio.sleep(0)
        front.started = True
        gc.collect()
        gc.freeze()  # as Service.startup does, and why
        ticking = loop.create_task(self._tick(front))
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
        self._channel.say(front.counts())
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

    def _welcome(self, server: uvicorn.Server) -> None:
        """Take the connections that the main process has accepted."""
        while True:
            try:
                _, descriptors, _, _ = socket.recv_fds(self._door, 1, 1)
            except BlockingIOError:
                return
            except OSError:
                descriptors = []
            if not descriptors:
                asyncio.get_running_loop().remove_reader(self._door)
                return
            connection = socket.socket(fileno=descriptors[0])
            connection.setblocking(False)
            task = asyncio.get_running_loop().create_task(connect(server, connection))
            server.server_state.tasks.add(task)
            task.add_done_callback(server.server_state.tasks.discard)

    async def _tick(self, front: Front) -> None:
        last = Counts({}, {}, 0, {})
        while True:
            await asyncio.sleep(TICK_S)
            front.host.expire(time.perf_counter_ns())
            counts = front.counts()
            if counts.models or counts.errors or counts != last:
                self._channel.say(counts)
                last = counts


def main(channel: int, door: int, memory: int, size: int) -> None:
    """Run a front on the descriptors that it was started with; a slot of the memory has ``size`` bytes."""
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


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
