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
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dlenv.errors import StartError, Unavailable
from dlenv_service.asgi import Service
from dlenv_service.batcher import Answer, Item
from dlenv_service.config import Settings
from dlenv_service.fronts.wire import (
    Applied,
    Channel,
    Counts,
    Done,
    Drain,
    Memory,
    Message,
    Model,
    Models,
    Ready,
    Rows,
    Start,
    failed,
    slot_bytes,
    write_answer,
)
from dlenv_service.host import Served
from dlenv_service.listener import BACKLOG

__all__ = ["Fronts"]

log = logging.getLogger("dlenv.service")

START_S = 60.0  # that a front may take to start
# Without any front for so long, the service is not healthy.
WITHOUT_S = 10.0
PAUSES_S = (0.0, 0.5, 1.0, 2.0, 5.0)  # before a front that died again and again is started once more
STEADY_S = 10.0  # a front that lived for so long died by accident
ENDING_S = 5.0  # that a front may take to end, beside the time to drain
FULL_S = 0.01  # after which connections are offered again that no front could take


class Front:
    """One front's process, as the main process sees it."""

    def __init__(self, fronts: Fronts) -> None:
        self._fronts = fronts
        self._served: dict[int, Served] = {}
        self.memory = Memory.make(slot_bytes(fronts.service.settings.max_body_bytes))
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.gone = asyncio.Event()
        self.applied = 0  # generation
        self.in_flight = 0
        self.queued: dict[int, int] = {}
        self.began = time.monotonic()
        self.channel = Channel(self._heard, self._lost)

    async def start(self, relay: str) -> None:
        """Start the process and send it what it needs."""
        ours, theirs = socket.socketpair()
        self.door, door = socket.socketpair()
        self.door.setblocking(False)
        descriptors = (theirs.fileno(), door.fileno(), self.memory.descriptor)
        words = [str(each) for each in (*descriptors, self.memory.size)]
        command = [sys.executable, "-m", "dlenv_service.fronts.front", *words]
        with theirs, door:
            # asyncio's own way needs a watcher of child processes; here the end of the channel tells the end.
            self.process = await asyncio.to_thread(_spawn, command, descriptors)
        ours.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self.channel, sock=ours)
        settings = _share(self._fronts.service.settings)
        self.channel.say(Start(settings.model_dump(mode="json", exclude_defaults=True), relay))

    def tell(self, message: Models, served: dict[int, Served]) -> None:
        """Say which models are loaded; those that are no more stay known until the front has applied it."""
        self._served.update(served)
        self.channel.say(message)

    def take(self, connection: socket.socket) -> bool:
        """Hand it a connection; False where it can't take one now."""
        try:
            socket.send_fds(self.door, [b"c"], [connection.fileno()])
        except OSError:
            return False
        return True

    def _heard(self, message: Message) -> None:
        if isinstance(message, Rows):
            self._queue(message)
        elif isinstance(message, Counts):
            self._count(message)
        elif isinstance(message, Applied):
            self.applied = message.generation
            self._fronts.applied.set()
        elif isinstance(message, Ready) and not self.ready.done():
            self.ready.set_result(None)

    def _queue(self, message: Rows) -> None:
        served = self._served[message.model]
        rows = self.memory.rows(message.slot, message.rows, served.signature)
        outcome = _Outcome(self, served, message.slot)
        outcome.item = item = Item(rows, outcome, message.queued, message.deadline, message.requests)
        try:
            served.queue(item)
        except Exception as error:  # noqa: BLE001 - every request is answered
            outcome.set_exception(error)

    def _count(self, message: Counts) -> None:
        for key, tally in message.models.items():
            self._served[key].statistics.add(tally)
        self._fronts.service.errors.update(message.errors)
        self.in_flight, self.queued = message.in_flight, message.queued

    def _lost(self) -> None:
        self.gone.set()
        self.door.close()
        self.in_flight, self.queued = 0, {}
        self._fronts.lost(self)
        self.memory.close()
        if not self.ready.done():
            self.ready.set_exception(StartError("a front process ended as it started; its messages say why"))

    async def end(self, limit_s: float) -> None:
        """Wait until the process has ended; kill it when that takes too long."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.gone.wait(), limit_s)
        try:
            await asyncio.to_thread(self.process.wait, 1.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            await asyncio.to_thread(self.process.wait)


def _share(settings: Settings) -> Settings:
    """The settings of one front: limits of the whole service are shared out among the fronts."""
    return settings.model_copy(
        update={
            "max_queue_rows": max(settings.max_rows, settings.max_queue_rows // settings.fronts),
            "max_pending_bytes": max(settings.max_body_bytes, settings.max_pending_bytes // settings.fronts),
        }
    )


def _spawn(command: list[str], descriptors: tuple[int, ...]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=descriptors)


class _Outcome:
    """What becomes of the rows in a slot (:class:`dlenv_service.batcher.Outcome`)."""

    __slots__ = ("_front", "_loop", "_over", "_served", "_slot", "item")

    def __init__(self, front: Front, served: Served, slot: int) -> None:
        self._front = front
        self._served = served
        self._slot = slot
        self._loop = asyncio.get_running_loop()
        self._over = False
        self.item: Item | None = None

    def done(self) -> bool:
        """Whether they are answered, or the front has gone."""
        return self._over or self._front.gone.is_set()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the channel."""
        return self._loop

    def set_result(self, result: Answer) -> None:
        """Answer."""
        self._over = True
        front, slot = self._front, self._slot
        classes = write_answer(front.memory, slot, result)
        assert self.item is not None
        speed = self._served.statistics.rows_per_second
        front.channel.say(Done(slot, classes, result.finite, self.item.started, speed))

    def set_exception(self, exception: BaseException) -> None:
        """Answer with an error."""
        self._over = True
        self._front.channel.say(failed(self._slot, exception))


class Fronts:
    """All fronts of one service, and the address that they answer on."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.applied = asyncio.Event()  # set when a front has applied something
        self._fronts: list[Front] = []
        self._generation = 0
        self._folder = tempfile.TemporaryDirectory(prefix="dlenv-fronts-")
        self._path = str(Path(self._folder.name, "main"))
        self._listener: socket.socket | None = None
        self._accepted: socket.socket | None = None  # that no front could take yet
        self._turn = 0
        self._deaths = 0  # in a row, soon after the start
        self._without_since: float | None = None
        self._restarts: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def start(self) -> socket.socket:
        """Start the fronts; returns the socket on which the main process has to answer what they do not.

        Raises:
            StartError: one does not start.
        """
        relayed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        relayed.bind(self._path)
        self.service.fronts = self
        self.service.host.on_models = self._publish
        fronts = [await self._start_one() for _ in range(self.service.settings.fronts)]
        await asyncio.gather(*(self._until_ready(front) for front in fronts))
        return relayed

    def open(self, listener: socket.socket) -> None:
        """Hand the connections to this address to the fronts from now on."""
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self._listener = listener
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
        fronts = list(self._fronts)
        for front in fronts:
            front.channel.say(Drain())
        limit_s = self.service.settings.drain_timeout_ms / 1000 + ENDING_S
        await asyncio.gather(*(front.end(limit_s) for front in fronts))

    async def close(self) -> None:
        """End what is left of them at once."""
        self._stopping = True
        for task in self._restarts:
            task.cancel()
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

    def lost(self, front: Front) -> None:
        """A front has gone: start another one, unless the service stops."""
        self._fronts.remove(front)
        self.applied.set()  # nobody needs to wait for it
        if not self._fronts:
            self._without_since = time.monotonic()
        if not self._stopping and front.ready.done():
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
                await self._until_ready(await self._start_one())
            except (OSError, StartError) as error:
                log.error("a front process does not start: %s", error)
                self._deaths += 1
            else:
                return

    async def _start_one(self) -> Front:
        front = Front(self)
        await front.start(self._path)
        self._fronts.append(front)
        front.tell(*self._models())
        return front

    async def _until_ready(self, front: Front) -> None:
        try:
            await asyncio.wait_for(front.ready, START_S)
        except asyncio.TimeoutError:
            front.process.kill()
            raise StartError(f"a front process did not start within {START_S:.0f} s") from None
        self._without_since = None

    def _models(self) -> tuple[Models, dict[int, Served]]:
        loaded = {served.key: served for served in self.service.host.loaded()}
        models = (Model(key, each.name, each.version, each.signature) for key, each in loaded.items())
        return Models(self._generation, tuple(models)), loaded

    async def _publish(self) -> None:
        """Tell every front which models are loaded, and wait until none asks for another any more."""
        self._generation = generation = self._generation + 1
        for front in self._fronts:
            front.tell(*self._models())
        until = time.monotonic() + self.service.settings.deadline_ms / 1000
        while any(front.applied < generation for front in self._fronts) and time.monotonic() < until:
            self.applied.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.applied.wait(), until - time.monotonic())

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
                self._pause(listener)
                return
            self._accepted = None
            fronts = [front for front in self._fronts if front.ready.done()]
            self._turn += 1
            if any(fronts[(self._turn + step) % len(fronts)].take(connection) for step in range(len(fronts))):
                connection.close()
            else:
                self._accepted = connection
                self._pause(listener)
                return

    def _pause(self, listener: socket.socket) -> None:
        """Look again in a moment."""
        asyncio.get_running_loop().remove_reader(listener)
        asyncio.get_running_loop().call_later(FULL_S, self._go_on)

    def _go_on(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)
            self._accept()
