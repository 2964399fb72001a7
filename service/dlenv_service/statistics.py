"""What is counted about one model version: one object feeds Triton's ``statistics`` extension and ``/metrics``.

Every count is changed on the event loop's thread only, so no count needs a lock, and one request costs a few
additions. A histogram is a list of counts per bucket, made cumulative when somebody looks.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter

import msgspec

__all__ = ["BATCH_BUCKETS", "LATENCY_BUCKETS", "Histogram", "Statistics", "Tally"]

# Seconds. From 100 microseconds up: Ray Serve's own buckets start at 1 ms, which hides a small model's whole answer.
LATENCY_BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
BATCH_BUCKETS = tuple(float(2**power) for power in range(13))


class Histogram:
    """Counts of values by upper bound; the last count is of values above every bound."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Prometheus' form: for each bound, how many values were at most that; ``+Inf`` last."""
        total = 0
        buckets = []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else repr(bound), float(total)))
        return buckets


class Durations:
    """How often something happened and how many nanoseconds it took in all (Triton's ``statistic_duration``)."""

    __slots__ = ("count", "ns")

    def __init__(self) -> None:
        self.count = 0
        self.ns = 0

    def add(self, ns: int, count: int = 1) -> None:
        """Count ``count`` events that took ``ns`` nanoseconds together."""
        self.count += count
        self.ns += ns

    def to_json(self) -> dict[str, int]:
        """Triton's JSON form."""
        return {"count": self.count, "ns": self.ns}


class Tally(msgspec.Struct, array_like=True, frozen=True):
    """What was counted of requests, to be added to other :class:`Statistics`, in another process."""

    requests: dict[int, int]
    durations: list[tuple[int, int]]
    histograms: list[tuple[list[int], float]]


class Statistics:
    """The counts of one model version since it was loaded."""

    def __init__(self) -> None:
        self.last_inference_ms = 0
        self.rows = 0  # rows answered
        self.batches = 0  # batches run
        self.failed_batches = 0
        self.requests: Counter[int] = Counter()  # by HTTP status
        self.success = Durations()
        self.fail = Durations()
        self.queue = Durations()
        self.compute_input = Durations()
        self.compute_infer = Durations()
        self.compute_output = Durations()
        self.by_batch_size: dict[int, tuple[Durations, Durations, Durations]] = {}
        self.latency = Histogram(LATENCY_BUCKETS)
        self.queue_time = Histogram(LATENCY_BUCKETS)
        self.batch_size = Histogram(BATCH_BUCKETS)
        self.rows_per_second = 0.0  # of the device while it computes, smoothed

    def batch(self, size: int, input_ns: int, infer_ns: int, output_ns: int) -> None:
        """Count one batch of ``size`` rows."""
        self.batches += 1
        self.rows += size
        self.last_inference_ms = int(time.time() * 1000)
        self.batch_size.observe(size)
        sums = self.by_batch_size.get(size)
        if sums is None:
            sums = self.by_batch_size[size] = (Durations(), Durations(), Durations())
        for duration, ns in zip(sums, (input_ns, infer_ns, output_ns), strict=True):
            duration.add(ns)
        speed = size * 1e9 / max(1, input_ns + infer_ns + output_ns)
        self.rows_per_second += 0.1 * (speed - self.rows_per_second) if self.rows_per_second else speed

    def computed(self, input_ns: int, infer_ns: int, output_ns: int, requests: int, *, last: bool) -> None:
        """Count what a batch took for some requests in it, as Triton does: each of them counts the whole time.

        ``last`` says whether these were the last of the requests' rows; before it only the time counts.
        """
        count = requests if last else 0
        self.compute_input.add(input_ns * requests, count)
        self.compute_infer.add(infer_ns * requests, count)
        self.compute_output.add(output_ns * requests, count)

    def answered(self, status: int, total_ns: int) -> None:
        """Count one request, answered with this HTTP status after so many nanoseconds."""
        self.requests[status] += 1
        (self.success if status < 400 else self.fail).add(total_ns)
        self.latency.observe(total_ns / 1e9)

    def waited(self, queue_ns: int) -> None:
        """Count the time that a request waited for the device."""
        self.queue.add(queue_ns)
        self.queue_time.observe(queue_ns / 1e9)

    def take(self) -> Tally:
        """What :meth:`answered` and :meth:`waited` counted since this was last called."""
        durations, histograms = self._of_requests()
        tally = Tally(
            dict(self.requests),
            [(each.count, each.ns) for each in durations],
            [(list(each.counts), each.sum) for each in histograms],
        )
        self.requests.clear()
        for duration in durations:
            duration.count = duration.ns = 0
        for histogram in histograms:
            histogram.counts, histogram.sum = [0] * len(histogram.counts), 0.0
        return tally

    def add(self, tally: Tally) -> None:
        """Add what other statistics of the same model counted of requests."""
        durations, histograms = self._of_requests()
        self.requests.update(tally.requests)
        for duration, (count, ns) in zip(durations, tally.durations, strict=True):
            duration.add(ns, count)
        for histogram, (counts, total) in zip(histograms, tally.histograms, strict=True):
            histogram.counts = [mine + theirs for mine, theirs in zip(histogram.counts, counts, strict=True)]
            histogram.sum += total

    def _of_requests(self) -> tuple[tuple[Durations, ...], tuple[Histogram, ...]]:
        return (self.success, self.fail, self.queue), (self.latency, self.queue_time)

    def retry_after(self, rows_waiting: int) -> int:
        """Seconds until the rows that wait are likely answered: 1 to 30."""
        if not self.rows_per_second:
            return 1
        return min(30, max(1, round(rows_waiting / self.rows_per_second + 0.5)))

    def to_json(self, name: str, version: int) -> dict[str, object]:
        """One element of ``model_stats`` (Triton, ``docs/protocol/extension_statistics.md``)."""
        zero = {"count": 0, "ns": 0}
        return {
            "name": name,
            "version": str(version),
            "last_inference": self.last_inference_ms,
            "inference_count": self.rows,
            "execution_count": self.batches,
            "inference_stats": {
                "success": self.success.to_json(),
                "fail": self.fail.to_json(),
                "queue": self.queue.to_json(),
                "compute_input": self.compute_input.to_json(),
                "compute_infer": self.compute_infer.to_json(),
                "compute_output": self.compute_output.to_json(),
                "cache_hit": zero,
                "cache_miss": zero,
            },
            "response_stats": {},
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": durations[0].to_json(),
                    "compute_infer": durations[1].to_json(),
                    "compute_output": durations[2].to_json(),
                }
                for size, durations in sorted(self.by_batch_size.items())
            ],
            "memory_usage": [],
        }
