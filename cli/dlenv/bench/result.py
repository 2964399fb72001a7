"""What a measurement gives."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from dlenv.bench.histogram import Histogram


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds until an accepted request's whole answer was there; in an open loop from the time it was due."""

    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float

    @classmethod
    def of(cls, histogram: Histogram) -> Latency | None:
        """None where nothing was counted."""
        if not len(histogram):
            return None
        p50, p90, p99, p999 = (histogram.quantile(share) for share in (0.5, 0.9, 0.99, 0.999))
        return cls(mean=histogram.mean, p50=p50, p90=p90, p99=p99, p999=p999, max=histogram.longest)


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds until a request was turned away."""

    p50: float
    p99: float

    @classmethod
    def of(cls, histogram: Histogram) -> Rejection | None:
        """None where nothing was counted."""
        if not len(histogram):
            return None
        return cls(p50=histogram.quantile(0.5), p99=histogram.quantile(0.99))


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement.

    Counts are of requests: in a closed loop of those whose answer came within the measured ``seconds``, in an open
    loop of those that were due in them, whenever their answer came. ``rate`` counts the right answers that came within
    these seconds. ``latency`` is None where nothing was answered, and where wrk measured and not all answers were
    200 (it does not tell them apart).
    """

    url: str
    mode: Literal["closed", "open"]
    tool: Literal["own", "wrk"]
    processes: int
    connections: int
    offered: float | None  # requests/s that were due; None in a closed loop
    seconds: float
    answered: int  # 200 with what was expected
    rejected: int
    wrong: int  # 200 with something else
    queued: int  # due when all connections were in use: in line, where the service did not see them; open loop only
    failed: dict[str, int]  # by reason: another status, or what happened to the connection
    rate: float  # right answers per second
    latency: Latency | None
    histogram: Histogram  # of the same requests as latency
    rejection: Rejection | None
    client_cpu: float  # CPU seconds per second, mean of the generator's processes (wrk: threads)
    client_lag: float | None  # seconds (p99) from a request being due to the generator's taking it up; open loop only
    saturated: str | None  # why this is no measurement of the service: the generator was the limit

    def problems(self) -> tuple[str, ...]:
        """Why the figures are not to be relied on; empty where they are."""
        found = [self.saturated] if self.saturated else []
        if self.wrong:
            found.append(f"{self.wrong} answers were wrong")
        if self.failed:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(self.failed.items()))
            found.append(f"{sum(self.failed.values())} requests failed ({reasons})")
        if not self.answered:
            found.append("nothing was answered")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json``; the histogram as ``[from, to, count]`` for each bucket that is not empty."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        document["histogram"] = [list(bucket) for bucket in self.histogram.filled()]
        document["problems"] = list(self.problems())
        return document
