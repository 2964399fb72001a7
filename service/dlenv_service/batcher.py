"""The queue of one model, and how batches are cut from it.

Greedy and pulled by the device: an idle device takes everything that waits, up to ``max_batch`` rows, at once. There
is no timer that closes batches while the device is busy, so batches grow by themselves as load grows, and an idle
service adds no delay (the policy of Triton's dynamic batcher with ``max_queue_delay_microseconds: 0``, its default).

This module is only the data structure. It starts no thread and reads no clock, so that a test can play any pattern
of arrivals and see the exact batches.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from dlenv.errors import DeadlineExceeded, Overloaded, Unavailable

if TYPE_CHECKING:
    from dlenv_service.tracing import Ran

__all__ = ["Answer", "Batch", "Batcher", "Item", "Outcome", "Piece", "too_late"]

Array = npt.NDArray[Any]


class Answer(NamedTuple):
    """What the model said of one request's rows."""

    probabilities: Array  # float32, (rows, classes)
    labels: Array  # int64, (rows,)
    finite: bool = True  # False: the batch that these rows were in holds a number that is not
    reconstructions: Array | None = None  # float32, (rows, *input shape), in the input's units; where asked for

    @classmethod
    def joined(cls, parts: Sequence[Answer]) -> Answer:
        """The answer to the rows of several, one after the other."""
        probabilities, labels, finite, made = zip(*parts, strict=True)
        reconstructions = None if made[0] is None else np.concatenate(made)
        return cls(np.concatenate(probabilities), np.concatenate(labels), all(finite), reconstructions)


class Outcome(Protocol):
    """What becomes of an item: an :class:`asyncio.Future`, or something lighter with as much of its interface.

    It belongs to an event loop: only that loop's thread may complete it.
    """

    def done(self) -> bool:
        """Whether it is answered or cancelled."""

    def set_result(self, result: Answer, /) -> None:
        """Answer."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Answer with an error."""

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it belongs to."""


class Item:
    """The rows of one request, or of some that a front has gathered, on their way through the queue.

    ``rows`` is ``(n, ...)`` in the model's input type, validated; ``deadline`` and ``queued`` are nanoseconds of
    ``time.perf_counter_ns``; ``reconstruct``: their reconstructions are wanted, too.
    """

    __slots__ = (
        *("count", "deadline", "done", "outcome", "parts", "queued", "ran", "reconstruct", "requests", "rows"),
        *("started", "taken"),
    )

    def __init__(
        self,
        rows: Array,
        outcome: Outcome,
        queued: int,
        deadline: int,
        requests: int = 1,
        reconstruct: bool = False,
    ) -> None:
        self.rows = rows
        self.requests = requests
        self.reconstruct = reconstruct
        self.count = len(rows)
        self.outcome = outcome
        self.queued = queued
        self.deadline = deadline
        self.started = 0  # when its first rows went to the device
        self.taken = 0  # rows handed to the device so far
        self.done = 0  # rows answered so far
        self.parts: list[Answer] = []
        self.ran: tuple[Ran, ...] = ()  # spans of its batches, where there are traces

    def deliver(self, part: Answer) -> None:
        """Add the answer to the next rows; the request is answered with its last row."""
        if self.outcome.done():  # cancelled, or past its deadline
            return
        self.done += len(part.labels)
        if self.done < self.count:
            self.parts.append(part)
            return
        if self.parts:
            self.parts.append(part)
            part = Answer.joined(self.parts)
        self.outcome.set_result(part)

    def fail(self, error: BaseException) -> None:
        """Answer with an error, unless an answer was given before."""
        if not self.outcome.done():
            self.outcome.set_exception(error)


class Piece(NamedTuple):
    """Rows ``start`` to ``stop`` of an item, which form one part of a batch."""

    item: Item
    start: int
    stop: int


@dataclass
class Batch:
    """Rows that go to the device together, all for the same version of one model."""

    pieces: list[Piece] = field(default_factory=list)
    count: int = 0
    started: int = 0

    @property
    def reconstruct(self) -> bool:
        """Whether reconstructions are wanted of any of its rows."""
        return any(item.reconstruct for item, _, _ in self.pieces)

    def arrays(self) -> list[Array]:
        """The rows of each piece, without copying."""
        return [item.rows if stop - start == item.count else item.rows[start:stop] for item, start, stop in self.pieces]


class Batcher:
    """The waiting requests of one model version. Every operation is O(1) for each request that it touches."""

    def __init__(self, max_batch: int, max_queue_rows: int, max_delay_us: int = 0) -> None:
        self.max_batch = max_batch
        self.max_queue_rows = max_queue_rows
        self.max_delay = max_delay_us * 1000
        self.rows = 0  # rows that wait
        self._closed = ""  # why nothing is queued any more
        self._items: deque[Item] = deque()
        # The event loop adds, the device thread takes. Held for a few operations only.
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._items)

    def check_room(self, count: int, retry_after: Callable[[int], int] = lambda _: 1) -> None:
        """See whether so many rows would find room; ``retry_after`` tells in how many seconds rows will be answered.

        Raises:
            Overloaded: they would not.
        """
        if self.rows + count > self.max_queue_rows:
            seconds = retry_after(self.rows)
            raise Overloaded(
                f"the queue is full: {self.rows} rows wait and {count} more would pass its limit of "
                f"{self.max_queue_rows}; try again in {seconds} s",
                seconds,
            )

    def add(self, item: Item, retry_after: Callable[[int], int] = lambda _: 1, *, limited: bool = True) -> None:
        """Queue an item; ``limited``: only where the queue has room.

        Raises:
            Overloaded: the queue has no room for this many rows; nothing was queued.
            Unavailable: the queue is closed.
        """
        with self._lock:
            if self._closed:
                raise Unavailable(self._closed)
            if limited:
                self.check_room(item.count, retry_after)
            self._items.append(item)
            self.rows += item.count

    def due(self) -> int | None:
        """When the next batch may start, in nanoseconds of the items' clock; None where nothing waits.

        Without a delay, that is when the oldest item was queued: now or in the past.
        """
        with self._lock:
            if not self._items:
                return None
            oldest = self._items[0].queued
            return oldest if self.rows >= self.max_batch else oldest + self.max_delay

    def take(self, now: int) -> Batch:
        """Cut the next batch: the oldest rows, at most ``max_batch``; empty where nothing waits.

        Items that were cancelled or answered are dropped here, before anything is copied. An item past its
        deadline is left to :meth:`expire`, which runs on the loop's thread and may complete its future.
        """
        batch = Batch(started=now)
        with self._lock:
            while self._items and batch.count < self.max_batch:
                item = self._items[0]
                if item.outcome.done() or item.deadline <= now:
                    self._items.popleft()
                    self.rows -= item.count - item.taken
                    if not item.outcome.done():
                        _fail_from_any_thread(item, too_late(item, now))
                    continue
                stop = min(item.count, item.taken + self.max_batch - batch.count)
                batch.pieces.append(Piece(item, item.taken, stop))
                batch.count += stop - item.taken
                self.rows -= stop - item.taken
                if item.started == 0:
                    item.started = now
                item.taken = stop
                if stop == item.count:
                    self._items.popleft()
        return batch

    def expire(self, now: int) -> int:
        """Answer everything past its deadline; returns how many. Called on the loop's thread.

        The device drops late items by itself when it takes a batch; this is for a device that takes none.
        """
        with self._lock:
            late = [item for item in self._items if item.deadline <= now]
            for item in late:
                self._items.remove(item)
                self.rows -= item.count - item.taken
        for item in late:
            item.fail(too_late(item, now))
        return len(late)

    def close(self, reason: str) -> None:
        """Answer everything that waits, and all that still comes, with 503. Called on the loop's thread."""
        with self._lock:
            self._closed = reason
        self.clear(Unavailable(reason))

    def clear(self, error: BaseException) -> None:
        """Answer everything that waits with an error. Called on the loop's thread."""
        with self._lock:
            items = list(self._items)
            self._items.clear()
            self.rows = 0
        for item in items:
            item.fail(error)


def too_late(item: Item, now: int) -> DeadlineExceeded:
    """The error of a request that was not answered in time."""
    waited = (now - item.queued) / 1e6
    return DeadlineExceeded(
        f"not answered within the deadline: {waited:.0f} ms have passed; send less at once or allow more time"
    )


def _fail_from_any_thread(item: Item, error: BaseException) -> None:
    item.outcome.get_loop().call_soon_threadsafe(item.fail, error)
