"""What one process of the load generator is told, and what it tells in the end."""

from __future__ import annotations

import msgspec

from dlenv.bench.histogram import Histogram
from dlenv.bench.target import Address


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What one process does: ``rate`` requests/s as a Poisson process, or as many as come back where it is None."""

    address: Address
    wires: tuple[bytes, ...]
    expects: tuple[bytes, ...]
    rejected: tuple[int, ...]
    connections: int
    rate: float | None
    seed: int
    warm_up: float
    duration: float


class Outcome(msgspec.Struct, kw_only=True):
    """What one process saw in the measured time; see ``Result`` for what is counted."""

    accepted: Histogram = msgspec.field(default_factory=Histogram)
    turned_away: Histogram = msgspec.field(default_factory=Histogram)
    lag: Histogram = msgspec.field(default_factory=Histogram)  # of the generator: from due to taken up
    in_time: int = 0  # right answers that came within the measured time
    wrong: int = 0
    queued: int = 0  # requests that were due when all connections were in use
    failed: dict[str, int] = msgspec.field(default_factory=dict)
    cpu: float = 0.0  # seconds computed within the measured time
    delayed: float = 0.0  # seconds waited for a processor in it
