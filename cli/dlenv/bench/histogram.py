"""Durations counted in buckets: small, quick to fill, and mergeable over processes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

_SHORTEST = 1e-6  # seconds; no answer over a socket comes faster
_GROWTH = math.log(1.01)  # each bucket ends 1 % after it begins: as exact as a percentile has to be
_BUCKETS = math.ceil(math.log(1e9) / _GROWTH)  # to 1,000 s
_SCALE = 1 / _GROWTH
_OFFSET = -math.log(_SHORTEST)


class Histogram(msgspec.Struct, kw_only=True):
    """Counts of durations; bucket ``i`` holds those from ``edge(i)`` to ``edge(i + 1)`` seconds."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * _BUCKETS)
    total: float = 0.0
    longest: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count a duration; one outside of the buckets goes to the first or last of them."""
        if seconds > self.longest:
            self.longest = seconds
        self.total += seconds * count
        bucket = int((math.log(seconds) + _OFFSET) * _SCALE) if seconds > _SHORTEST else 0
        self.counts[bucket if bucket < _BUCKETS else -1] += count

    def merge(self, other: Histogram) -> None:
        """Count what ``other`` has counted."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total
        self.longest = max(self.longest, other.longest)

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """In seconds, exact; raises ``ZeroDivisionError`` where nothing was counted."""
        return self.total / len(self)

    def quantile(self, share: float) -> float:
        """The duration that ``share`` of them do not exceed: the end of its bucket, so at most 1 % too long."""
        rank = max(1, math.ceil(share * len(self)))
        seen = 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if seen >= rank:
                return min(edge(bucket + 1), self.longest)
        raise ValueError("an empty histogram has no quantiles")

    def filled(self) -> Iterator[tuple[float, float, int]]:
        """Beginning and end (seconds) and count of each bucket that is not empty."""
        for bucket, count in enumerate(self.counts):
            if count:
                yield edge(bucket), edge(bucket + 1), count


def edge(bucket: int) -> float:
    """Where a bucket begins, in seconds."""
    return _SHORTEST * math.exp(bucket * _GROWTH)
