"""A model version that is loaded: what it takes, what runs it, and what is counted about it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import count

from dlenv_models.manifest import Manifest
from dlenv_service.batcher import Array, Item, Outcome
from dlenv_service.config import Settings
from dlenv_service.device import Device, Lane
from dlenv_service.statistics import Statistics
from dlenv_service.tensors import Signature

__all__ = ["Served"]


@dataclass(eq=False)
class Served:
    """One model version that is loaded."""

    name: str
    version: int
    manifest: Manifest
    signature: Signature
    lane: Lane
    memory_bytes: int
    statistics: Statistics
    device: Device
    settings: Settings
    key: int = field(default_factory=count(1).__next__)  # no other model version of this process ever has the same

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self.lane.batcher.rows

    def check_room(self) -> None:
        """Refuse a request before its body is read or looked at, where there is no room for a single row.

        Raises:
            Overloaded: the queue is full.
        """
        self.lane.batcher.check_room(1, self.statistics.retry_after)

    def submit(self, rows: Array, timeout_us: int | None, outcome: Outcome, reconstruct: bool = False) -> Item:
        """Queue the rows of one request; ``outcome`` will hold the answer, or an error.

        Raises:
            Overloaded: the queue is full.
        """
        now = time.perf_counter_ns()
        item = Item(rows, outcome, now, now + self.settings.allowed_ns(timeout_us), 1, reconstruct)
        self.queue(item)
        return item

    def queue(self, item: Item, *, limited: bool = True) -> None:
        """Queue an item; ``limited``: only where the queue has room.

        Raises:
            Overloaded: it has none.
            Unavailable: the model was replaced.
        """
        self.lane.batcher.add(item, self.statistics.retry_after, limited=limited)
        self.device.notify()
