"""A front's process, from the main process's side: what it gathers is queued, and answered in its memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
import time
from collections.abc import Callable

from dlenv.errors import StartError
from dlenv_service import child
from dlenv_service.asgi import Service
from dlenv_service.batcher import Answer, Item
from dlenv_service.config import Settings
from dlenv_service.fronts.wire import (
    Applied,
    Channel,
    Counts,
    Done,
    Memory,
    Message,
    Models,
    Ready,
    Rows,
    Start,
    failed,
    slot_bytes,
    write_answer,
)
from dlenv_service.served import Served

__all__ = ["Front"]

log = logging.getLogger("dlenv.service")


class Front:
    """One front's process, as the main process sees it; ``changed`` is called when it has applied something or gone."""

    def __init__(self, service: Service, changed: Callable[[Front], None]) -> None:
        self._service = service
        self._changed = changed
        self._served: dict[int, Served] = {}  # by key
        self._told: tuple[int, dict[int, Served]] = (0, {})  # the generation that the front has to apply
        self.memory = Memory.make(slot_bytes(service.settings.max_body_bytes))
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()
        self.silence = 0  # how often it was looked at since it last said something
        self.applied = 0  # generation
        self.in_flight = 0
        self.queued: dict[int, int] = {}
        self.began = time.monotonic()
        self.channel = Channel(self._heard, self._lost)

    async def start(self, relay: str) -> None:
        """Start the process and send it what it needs."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.memory.forget_descriptor)
            channel, theirs = (stack.enter_context(each) for each in socket.socketpair())
            door, door_theirs = (stack.enter_context(each) for each in socket.socketpair())
            descriptors = (theirs.fileno(), door_theirs.fileno(), self.memory.descriptor)
            words = (str(each) for each in (*descriptors, self.memory.size))
            command = child.command("dlenv_service.fronts.front", *words)
            # asyncio's own way needs a watcher of child processes; here the end of the channel tells the end. A session
            # of its own: a terminal's Ctrl-C is for the main process.
            self.process = subprocess.Popen(  # noqa: ASYNC220 - takes milliseconds
                command, stdin=subprocess.DEVNULL, pass_fds=descriptors, start_new_session=True
            )
            self.door, channel = door.dup(), channel.dup()
        self.door.setblocking(False)
        channel.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self.channel, sock=channel)
        settings = _share(self._service.settings)
        self.channel.say(Start(settings.model_dump(mode="json", exclude_defaults=True), relay))

    def tell(self, message: Models, served: dict[int, Served]) -> None:
        """Say which models are loaded; those that are no more stay known until the front has applied it."""
        self._told = message.generation, served
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
        self.silence = 0
        if isinstance(message, Rows):
            self._queue(message)
        elif isinstance(message, Counts):
            self._count(message)
        elif isinstance(message, Applied):
            self.applied = message.generation
            generation, served = self._told
            if self.applied == generation:  # nothing more comes for the others, which take memory
                self._served = dict(served)
            self._changed(self)
        elif isinstance(message, Ready):
            self.ready.set()

    def _queue(self, message: Rows) -> None:
        served = self._served[message.model]
        rows = self.memory.rows(message.slot, message.rows, served.signature)
        outcome = _Outcome(self, served, message.slot)
        outcome.item = item = Item(
            rows, outcome, message.queued, message.deadline, message.requests, reconstruct=message.reconstruct
        )
        try:
            served.queue(item, limited=False)  # the front has checked its share of the limit
        except Exception as error:  # noqa: BLE001 - every request is answered
            outcome.set_exception(error)

    def _count(self, message: Counts) -> None:
        for key, tally in message.models.items():
            self._served[key].statistics.add(tally)
        self._service.errors.update(message.errors)
        self.in_flight, self.queued = message.in_flight, message.queued

    def _lost(self) -> None:
        self.gone.set()
        self.door.close()
        self.in_flight, self.queued = 0, {}
        self.memory.close()
        self._changed(self)

    async def until_ready(self, limit_s: float) -> None:
        """Wait until it takes connections.

        Raises:
            StartError: it does not.
        """
        waiting = [asyncio.ensure_future(event.wait()) for event in (self.ready, self.gone)]
        await asyncio.wait(waiting, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        for each in waiting:
            each.cancel()
        if self.gone.is_set():
            raise StartError("a front process ended as it started; its messages say why")
        if not self.ready.is_set():
            self.process.kill()
            raise StartError(f"a front process did not start within {limit_s:.0f} s")

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
        front, slot = self._front, self._slot
        try:
            classes = write_answer(front.memory, slot, result, self._served.signature)
        except ValueError as error:
            log.exception("an answer does not fit into its slot")
            self.set_exception(error)
            return
        self._over = True
        assert self.item is not None
        speed = self._served.statistics.rows_per_second
        reconstructed = result.reconstructions is not None
        front.channel.say(Done(slot, classes, result.finite, self.item.started, speed, reconstructed, self.item.ran))

    def set_exception(self, exception: BaseException) -> None:
        """Answer with an error."""
        self._over = True
        ran = self.item.ran if self.item is not None else ()
        self._front.channel.say(failed(self._slot, exception, ran))
