"""The main process's side of its fronts: it starts them, hands them connections, and answers what they gather.

The main process accepts each connection and passes it to the next front in turn (a file descriptor over a socket), so
that they share the connections evenly, one address is bound once, and a front that dies takes nothing with it but its
own connections. A new one then takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import tempfile
import time
from pathlib import Path

from dlenv.errors import StartError, Unavailable
from dlenv_service.asgi import Service
from dlenv_service.fronts.process import Front
from dlenv_service.fronts.wire import Drain, Model, Models
from dlenv_service.listener import BACKLOG
from dlenv_service.served import Served

__all__ = ["Fronts"]

log = logging.getLogger("dlenv.service")

START_S = 60.0  # that a front may take to start
# Without any front for so long, the service is not healthy.
WITHOUT_S = 10.0
PAUSES_S = (0.0, 0.5, 1.0, 2.0, 5.0)  # before a front that died again and again is started once more
STEADY_S = 10.0  # a front that lived for so long died by accident
ENDING_S = 5.0  # that a front may take to end, beside the time to drain
FULL_S = 0.01  # after which connections are offered again that no front could take
OUT_OF_DESCRIPTORS_S = 1.0  # after which connections are accepted again
SILENCE = 10  # seconds without a word, after which a front is taken for stuck; it says something every second


class Fronts:
    """All fronts of one service, and the address that they answer on."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._something = asyncio.Event()  # set when a front has applied something, or gone
        self._fronts: list[Front] = []
        self._generation = 0
        self._folder = tempfile.TemporaryDirectory(prefix="dlenv-fronts-")
        self._path = str(Path(self._folder.name, "main"))
        self._listener: socket.socket | None = None
        self._accepted: socket.socket | None = None  # that no front could take yet
        self._turn = 0
        self._deaths = 0  # in a row, soon after the start
        self._without_since: float | None = None  # nobody takes connections
        self._watcher: asyncio.Task[None] | None = None
        self._restarts: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def start(self) -> socket.socket:
        """Start the fronts; returns the socket on which the main process has to answer what they do not.

        Raises:
            StartError: one does not start.
        """
        relayed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            relayed.bind(self._path)
            self._without_since = time.monotonic()
            self.service.fronts = self
            self.service.host.on_models = self._publish
            fronts = [await self._start_one() for _ in range(self.service.settings.fronts)]
            await asyncio.gather(*(front.until_ready(START_S) for front in fronts))
        except OSError as error:
            relayed.close()
            raise StartError(f"--fronts {self.service.settings.fronts}: {error.strerror or error}") from None
        except BaseException:
            relayed.close()
            raise
        self._watcher = asyncio.get_running_loop().create_task(self._watch())
        return relayed

    def open(self, listener: socket.socket) -> None:
        """Hand the connections to this address to the fronts from now on."""
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self._listener = listener
        self._without_since = None
        asyncio.get_running_loop().add_reader(listener, self._accept)

    async def drain(self) -> None:
        """Take no more connections, and wait until the fronts have answered what arrived and ended.

        Connections that the kernel has accepted already are served too.
        """
        self._stopping = True
        listener, loop = self._listener, asyncio.get_running_loop()
        if listener is not None:
            self._accept()
            while self._accepted is not None and self._fronts:
                await asyncio.sleep(FULL_S)
            self._listener = None
            loop.remove_reader(listener)
            listener.close()
            if self._accepted is not None:
                self._accepted.close()
        fronts = list(self._fronts)
        for front in fronts:
            front.channel.say(Drain())
        limit_s = self.service.settings.drain_timeout_ms / 1000 + ENDING_S
        await asyncio.gather(*(front.end(limit_s) for front in fronts))

    async def close(self) -> None:
        """End what is left of them at once."""
        self._stopping = True
        tasks = [*self._restarts, *([self._watcher] if self._watcher is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        fronts = list(self._fronts)
        for front in fronts:
            front.process.kill()
        await asyncio.gather(*(front.end(ENDING_S) for front in fronts))
        self._folder.cleanup()

    def check_health(self) -> None:
        """Raise when there has been no front for a while.

        Raises:
            Unavailable: always then.
        """
        since = self._without_since
        if since is not None and time.monotonic() - since > WITHOUT_S:
            raise Unavailable("the processes that answer HTTP end again and again; the service's log says why")

    @property
    def in_flight(self) -> int:
        """Requests that fronts have not answered completely, as they last said."""
        return sum(front.in_flight for front in self._fronts)

    def queued_rows(self, served: Served) -> int:
        """Rows that wait in fronts for this model, as they last said."""
        return sum(front.queued.get(served.key, 0) for front in self._fronts)

    @property
    def all_queued_rows(self) -> int:
        """Rows that wait in fronts, for any model, as they last said."""
        return sum(sum(front.queued.values()) for front in self._fronts)

    def _changed(self, front: Front) -> None:
        self._something.set()
        if front.gone.is_set() and front in self._fronts:
            self._lost(front)

    def _lost(self, front: Front) -> None:
        """Start another front in the place of one that has gone, unless the service stops."""
        self._fronts.remove(front)
        if not self._fronts and self._without_since is None:
            self._without_since = time.monotonic()
        if not self._stopping and front.ready.is_set():  # else whoever started it knows
            log.error("a front process ended (%s); another one takes its place", front.process.poll())
            steady = time.monotonic() - front.began > STEADY_S
            self._deaths = 0 if steady else self._deaths + 1
            task = asyncio.get_running_loop().create_task(self._replace(front))
            self._restarts.add(task)
            task.add_done_callback(self._restarts.discard)

    async def _replace(self, front: Front) -> None:
        await front.end(ENDING_S)
        while not self._stopping:
            await asyncio.sleep(PAUSES_S[min(self._deaths, len(PAUSES_S) - 1)])
            try:
                await (await self._start_one()).until_ready(START_S)
            except Exception as error:  # noqa: BLE001 - descriptors, memory, processes: it is tried again
                log.error("a front process does not start: %s", error)
                self._deaths += 1
            else:
                self._without_since = None
                return

    async def _start_one(self) -> Front:
        front = Front(self.service, self._changed)
        await front.start(self._path)
        self._fronts.append(front)
        front.tell(*self._models())
        return front

    async def _watch(self) -> None:
        """Kill fronts that say nothing any more; counted in looks, so that a pause of this process is not theirs."""
        while True:
            await asyncio.sleep(1.0)
            for front in [front for front in self._fronts if front.ready.is_set()]:
                front.silence += 1
                if front.silence > SILENCE:
                    log.error("a front process has said nothing for %d s; it is killed", SILENCE)
                    front.process.kill()

    def _models(self) -> tuple[Models, dict[int, Served]]:
        loaded = {served.key: served for served in self.service.host.loaded()}
        models = (
            Model(key, each.name, each.version, each.signature, len(each.manifest.classes))
            for key, each in loaded.items()
        )
        return Models(self._generation, tuple(models)), loaded

    async def _publish(self) -> None:
        """Tell every front which models are loaded, and wait until none asks for another any more."""
        self._generation = generation = self._generation + 1
        for front in self._fronts:
            front.tell(*self._models())
        until = time.monotonic() + self.service.settings.deadline_ms / 1000
        while any(front.applied < generation for front in self._fronts) and time.monotonic() < until:
            self._something.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._something.wait(), until - time.monotonic())

    def _accept(self) -> None:
        listener = self._listener
        if listener is None:  # meanwhile
            return
        while True:
            try:
                connection = self._accepted or listener.accept()[0]
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor is left, and the connection still waits: don't spin
                log.error("can't accept a connection: %s", error.strerror)
                self._pause(listener, OUT_OF_DESCRIPTORS_S)
                return
            self._accepted = None
            fronts = [front for front in self._fronts if front.ready.is_set()]
            self._turn += 1
            if any(fronts[(self._turn + step) % len(fronts)].take(connection) for step in range(len(fronts))):
                connection.close()
            else:
                self._accepted = connection
                self._pause(listener, FULL_S)
                return

    def _pause(self, listener: socket.socket, seconds: float) -> None:
        """Look again in a moment."""
        asyncio.get_running_loop().remove_reader(listener)
        asyncio.get_running_loop().call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)
            self._accept()
