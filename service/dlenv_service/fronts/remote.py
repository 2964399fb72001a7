"""A front's view of the models: they answer through the main process.

The same queue as the main process has (:mod:`dlenv_service.batcher`) gathers the rows of requests here; its batches go
into free slots, as soon as there is one. So one request that comes alone is handed over at once, and under load the
batches grow while all slots are under way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np

from dlenv.errors import Unavailable
from dlenv_service import lookup
from dlenv_service.batcher import Answer, Array, Batch, Batcher, Item, Outcome, too_late
from dlenv_service.config import Settings
from dlenv_service.fronts.wire import (
    SLOTS,
    Applied,
    Done,
    Failed,
    Memory,
    Message,
    Model,
    Models,
    Rows,
    error_of,
    slot_rows,
)
from dlenv_service.statistics import Statistics
from dlenv_service.tracing import Ran

__all__ = ["Remote", "RemoteHost"]


class Remote:
    """A model version that the main process runs."""

    def __init__(self, model: Model, host: RemoteHost) -> None:
        self.key = model.key
        self.name = model.name
        self.version = model.version
        self.signature = model.signature
        self.statistics = Statistics()
        settings = host.settings
        most = slot_rows(model, settings.max_batch, host.memory.size)
        self.batcher = Batcher(most, settings.max_queue_rows)
        self.under_way = 0  # slots
        self._host = host

    def check_room(self) -> None:
        """Refuse a request before its body is looked at, where there is no room for a single row.

        Raises:
            Overloaded: the queue is full.
        """
        self.batcher.check_room(1, self.statistics.retry_after)

    def submit(self, rows: Array, timeout_us: int | None, outcome: Outcome, reconstruct: bool = False) -> Item:
        """Queue the rows of one request; ``outcome`` will hold the answer, or an error.

        Raises:
            Overloaded: the queue is full.
        """
        now = time.perf_counter_ns()
        item = Item(rows, outcome, now, now + self._host.settings.allowed_ns(timeout_us), 1, reconstruct)
        self.batcher.add(item, self.statistics.retry_after)
        self._host.wake()
        return item


class RemoteHost:
    """The models of a front."""

    def __init__(self, settings: Settings, memory: Memory, say: Callable[[Message], None]) -> None:
        self.settings = settings
        self.memory = memory
        self.tell = say
        self._models: dict[str, dict[int, Remote]] = {}
        self._going: list[Remote] = []  # loaded no more, but not all of their requests are answered
        self._generation = 0
        self._free = list(range(SLOTS))
        self._under_way: dict[int, tuple[Remote, Batch]] = {}  # by slot
        self._awake = False

    def find(self, name: str, version: str | None = None) -> Remote:
        """A loaded model; the newest loaded version where none is given.

        Raises:
            ModelNotFound: it isn't loaded; names what is.
        """
        return lookup.find(self._models, name, version)

    def all(self) -> list[Remote]:
        """Every model version, those included that are about to go."""
        return [*(remote for versions in self._models.values() for remote in versions.values()), *self._going]

    def wake(self) -> None:
        """Hand rows over once what has arrived by now is read: it comes in one go then."""
        if not self._awake:
            self._awake = True
            asyncio.get_running_loop().call_soon(self._hand_over)

    def apply(self, message: Models) -> None:
        """Take these models for the loaded ones."""
        present = {remote.key: remote for remote in self.all()}
        self._models = {}
        for model in message.models:
            remote = present.pop(model.key, None) or Remote(model, self)
            self._models.setdefault(model.name, {})[model.version] = remote
        self._going = list(present.values())
        self._generation = message.generation
        self._say_when_applied()

    def done(self, message: Done) -> None:
        """Deliver the answers that lie in a slot, and use it again."""
        remote, batch = self._release(message.slot)
        remote.statistics.rows_per_second = message.rows_per_second / max(1, self.settings.fronts)
        views = self.memory.answer(message.slot, batch.count, message.classes)
        probabilities, labels = views[0].copy(), views[1].copy()
        made = None
        if message.reconstructed:
            made = self.memory.reconstructions(message.slot, batch.count, message.classes, remote.signature).copy()
        _tell_what_ran(batch, message.ran)
        position = 0
        for item, start, stop in batch.pieces:
            end = position + stop - start
            if start == 0:
                item.started = message.started
            wanted = made[position:end] if made is not None and item.reconstruct else None
            item.deliver(Answer(probabilities[position:end], labels[position:end], message.finite, wanted))
            position = end
        self._hand_over()

    def failed(self, message: Failed) -> None:
        """Fail the requests whose rows were in a slot, and use it again."""
        _, batch = self._release(message.slot)
        error = error_of(message)
        _tell_what_ran(batch, message.ran)
        for item, _, _ in batch.pieces:
            item.fail(error)
        self._hand_over()

    def expire(self, now: int) -> None:
        """Answer every request past its deadline, those under way too."""
        for remote in self.all():
            if len(remote.batcher):
                remote.batcher.expire(now)
        for _, batch in self._under_way.values():
            for item, _, _ in batch.pieces:
                if item.deadline <= now:
                    item.fail(too_late(item, now))
        if self._going:
            self._say_when_applied()

    def close(self) -> None:
        """Answer what waits with 503."""
        error = Unavailable("the service is stopping; send the request again later")
        for remote in self.all():
            remote.batcher.clear(error)
        for _, batch in self._under_way.values():
            for item, _, _ in batch.pieces:
                item.fail(error)

    def _hand_over(self) -> None:
        self._awake = False
        now = time.perf_counter_ns()
        while self._free:
            waiting = [(due, remote) for remote in self.all() if (due := remote.batcher.due()) is not None]
            if not waiting:
                break
            _, remote = min(waiting, key=lambda pair: pair[0])
            batch = remote.batcher.take(now)
            if batch.count:
                self._send(remote, batch)
        if self._going:
            self._say_when_applied()

    def _send(self, remote: Remote, batch: Batch) -> None:
        slot = self._free.pop()
        self._under_way[slot] = remote, batch
        remote.under_way += 1
        np.concatenate(batch.arrays(), out=self.memory.rows(slot, batch.count, remote.signature))
        self.tell(
            Rows(
                slot,
                remote.key,
                batch.count,
                len(batch.pieces),
                min(item.queued for item, _, _ in batch.pieces),
                max(item.deadline for item, _, _ in batch.pieces),
                bool(remote.signature.reconstruction) and batch.reconstruct,
            )
        )

    def _release(self, slot: int) -> tuple[Remote, Batch]:
        remote, batch = self._under_way.pop(slot)
        remote.under_way -= 1
        self._free.append(slot)
        return remote, batch

    def _say_when_applied(self) -> None:
        still = [remote for remote in self._going if remote.under_way or len(remote.batcher)]
        if not still:
            self.tell(Applied(self._generation))
            self._going = []


def _tell_what_ran(batch: Batch, ran: tuple[Ran, ...]) -> None:
    """Tell each item which of the device's batches its rows were in; ``ran`` counts the rows of the slot."""
    position = 0
    for item, start, stop in batch.pieces if ran else ():
        end = position + stop - start
        item.ran = (*item.ran, *(each for each in ran if each.start < end and each.stop > position))
        position = end
