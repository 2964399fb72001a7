"""Counted durations: percentiles as exact as the buckets, whatever was counted where."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlenv.bench import Histogram, Latency

durations = st.lists(st.floats(1.1e-6, 900), min_size=1, max_size=60)


def filled(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


@given(durations, st.floats(0.01, 1))
def test_a_quantile_is_at_most_one_percent_too_long(values: list[float], share: float) -> None:
    exact = sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
    assert exact * (1 - 1e-9) <= filled(values).quantile(share) <= exact * 1.0101


@given(durations, durations)
def test_merged_is_counted_together(one: list[float], other: list[float]) -> None:
    together = filled(one)
    together.merge(filled(other))
    expected = filled([*one, *other])
    assert together.counts == expected.counts
    assert together.longest == max(*one, *other)
    assert together.mean == pytest.approx(sum([*one, *other]) / len([*one, *other]))


@given(durations)
def test_every_duration_lies_in_its_bucket(values: list[float]) -> None:
    buckets = list(filled(values).filled())
    assert sum(count for _, _, count in buckets) == len(values)
    assert all(any(begin * 0.999999 <= value <= end * 1.000001 for begin, end, _ in buckets) for value in values)


def test_durations_outside_of_the_buckets_are_counted() -> None:
    histogram = filled([0.0, 1e-9, 5000.0])
    assert len(histogram) == 3
    assert histogram.longest == 5000.0
    assert histogram.quantile(0.5) < 2e-6


def test_nothing_counted() -> None:
    assert Latency.of(Histogram()) is None
    with pytest.raises(ValueError, match="empty"):
        Histogram().quantile(0.5)
