"""The thread that owns a device and runs one batch after another on it.

With several models the device takes the one whose oldest rows have waited longest. Answers go back to the event loop
in one call per batch, not one per request: waking the loop is the expensive part.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np

from dlenv.errors import ModelFailed
from dlenv_service.batcher import Answer, Array, Batch, Batcher, too_late
from dlenv_service.halving import Halving
from dlenv_service.statistics import Statistics

__all__ = ["Device", "Lane", "Runner", "Timing"]

log = logging.getLogger("dlenv.service")

T = TypeVar("T")


class Timing:
    """Nanoseconds that the parts of one batch took."""

    __slots__ = ("infer", "input", "output")

    def __init__(self, input: int, infer: int, output: int) -> None:  # noqa: A002 - Triton's name for it
        self.input = input
        self.infer = infer
        self.output = output


class Runner(Protocol):
    """Something that answers a batch: an :class:`dlenv_service.engine.Engine`."""

    name: str

    def run(self, pieces: list[Array], count: int) -> tuple[Answer, Timing]:
        """Answer ``count`` rows, given in pieces ``(n_i, ...)``; called in the device's thread only."""
        ...


class Lane:
    """One model version on a device: its queue, what runs it, and what is counted about it.

    ``reconstructor`` runs the batches in which somebody wants reconstructions, where the model gives any: nobody else
    pays for them.
    """

    def __init__(
        self, batcher: Batcher, runner: Runner, statistics: Statistics, reconstructor: Runner | None = None
    ) -> None:
        self.batcher = batcher
        self.runner = runner
        self.reconstructor = reconstructor
        self.statistics = statistics
        self.batch: Batch | None = None  # what is on the device right now
        self.failures = 0  # batches that failed since one that did not
        self.halving = Halving()
        self.on_batch: Callable[[Batch, Timing | None], None] | None = None  # called on the loop's thread; None: failed

    @property
    def running(self) -> int:
        """Rows on the device right now."""
        batch = self.batch
        return batch.count if batch is not None else 0

    def replace(self, runner: Runner, max_batch: int) -> None:
        """Run batches of up to ``max_batch`` on another runner; called in the device's thread only."""
        self.runner = runner
        self.batcher.max_batch = max_batch

    def expire(self, now: int) -> None:
        """Answer every request past its deadline, those on the device too. Called on the loop's thread.

        The device drops late requests by itself when it takes a batch; this is for one that is slow or stuck.
        """
        if len(self.batcher):
            self.batcher.expire(now)
        batch = self.batch
        for item, _, _ in batch.pieces if batch is not None else ():
            if item.deadline <= now:
                item.fail(too_late(item, now))


class Device:
    """The thread, and the lanes that it serves."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str = "device") -> None:
        self._loop = loop
        self._lanes: list[Lane] = []
        self._jobs: deque[tuple[Callable[[], object], concurrent.futures.Future[object]]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._busy_since = 0  # perf_counter_ns at which the running batch began; 0 when idle
        self._thread = threading.Thread(target=self._main, name=f"dlenv-{name}", daemon=True)
        self._thread.start()

    def add(self, lane: Lane) -> None:
        """Serve this lane too."""
        with self._wake:
            self._lanes.append(lane)
            self._wake.notify()

    def remove(self, lane: Lane) -> None:
        """Serve this lane no more; its queue should be empty."""
        with self._wake:
            self._lanes.remove(lane)

    def notify(self) -> None:
        """Say that something was queued."""
        with self._wake:
            self._wake.notify()

    def call(self, job: Callable[[], T]) -> concurrent.futures.Future[T]:
        """Run a function in the device's thread, between two batches."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._wake:
            self._jobs.append((job, future))  # type: ignore[arg-type]
            self._wake.notify()
        return future

    def busy_for(self) -> float:
        """Seconds that the running batch has taken so far; 0 when idle."""
        since = self._busy_since
        return (time.perf_counter_ns() - since) / 1e9 if since else 0.0

    def close(self) -> None:
        """Stop after the running batch and wait for the thread, for 10 seconds at most."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(10)
        for _, future in self._jobs:
            future.cancel()

    def _main(self) -> None:
        while True:
            lane, job = self._next()
            if job is not None:
                _do(*job)
            elif lane is not None:
                self._run(lane)
            else:
                return
            # Not held while it waits: a model that is unloaded meanwhile would stay in memory.
            lane = job = None

    def _next(self) -> tuple[Lane | None, tuple[Callable[[], object], concurrent.futures.Future[object]] | None]:
        """Wait for work: a lane with rows that are due, or a job; neither when the device stops."""
        with self._wake:
            while not self._stopping:
                if self._jobs:
                    return None, self._jobs.popleft()
                due, lane = min(
                    ((at, lane) for lane in self._lanes if (at := lane.batcher.due()) is not None),
                    key=lambda pair: pair[0],
                    default=(None, None),
                )
                if due is None:
                    self._wake.wait()
                    continue
                ahead = due - time.perf_counter_ns()
                if ahead <= 0:
                    return lane, None
                self._wake.wait(ahead / 1e9)
        return None, None

    def _run(self, lane: Lane) -> None:
        now = time.perf_counter_ns()
        batch = lane.batcher.take(now)
        if not batch.count:
            return
        lane.batch, self._busy_since = batch, now
        try:
            reconstructor = lane.reconstructor
            runner = reconstructor if reconstructor is not None and batch.reconstruct else lane.runner
            answer, timing = lane.halving.run(runner, batch.arrays(), batch.count)
        except Exception as error:  # noqa: BLE001 - the thread must outlive whatever a model raises
            self._post(self._failed, lane, batch, error)
        else:
            finite = bool(np.isfinite(answer.probabilities).all())
            if answer.reconstructions is not None:
                finite = finite and bool(np.isfinite(answer.reconstructions).all())
            self._post(self._answered, lane, batch, answer._replace(finite=finite), timing)
        finally:
            lane.batch, self._busy_since = None, 0

    def _post(self, callback: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for answers any more
            self._loop.call_soon_threadsafe(callback, *args)

    @staticmethod
    def _answered(lane: Lane, batch: Batch, answer: Answer, timing: Timing) -> None:
        lane.failures = 0
        lane.statistics.batch(batch.count, timing.input, timing.infer, timing.output)
        if lane.on_batch is not None:
            lane.on_batch(batch, timing)
        made = answer.reconstructions
        position = 0
        for item, start, stop in batch.pieces:
            last = stop == item.count
            lane.statistics.computed(timing.input, timing.infer, timing.output, item.requests, last=last)
            end = position + stop - start
            wanted = made[position:end] if made is not None and item.reconstruct else None
            item.deliver(Answer(answer.probabilities[position:end], answer.labels[position:end], answer.finite, wanted))
            position = end

    @staticmethod
    def _failed(lane: Lane, batch: Batch, error: Exception) -> None:
        lane.failures += 1
        lane.statistics.failed_batches += 1
        if lane.on_batch is not None:
            lane.on_batch(batch, None)
        log.error("a batch of %d rows failed", batch.count, exc_info=error)
        for item, _, _ in batch.pieces:
            item.fail(ModelFailed("the model failed on the batch that this request was in; the service's log says why"))


def _do(job: Callable[[], object], future: concurrent.futures.Future[object]) -> None:
    if not future.set_running_or_notify_cancel():  # whoever asked for it has gone
        return
    try:
        future.set_result(job())
    except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the job
        future.set_exception(error)
