"""Spaces of options: what is written, what it means, what is drawn."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlenv_models.space import Choice, Range, axis, draw, size


@pytest.mark.parametrize(
    ("text", "parse", "expected"),
    [
        ("0..0.5", float, Range(0.0, 0.5, False, False)),
        ("0.1..0.5", float, Range(0.1, 0.5, False, False)),
        ("log:1e-4..1e-1", float, Range(1e-4, 0.1, True, False)),
        ("log:0.001..0.1", float, Range(0.001, 0.1, True, False)),
        ("16..256", int, Range(16, 256, False, True)),
        ("relu|tanh", str, Choice(("relu", "tanh"))),
        ("0|0.5", float, Choice((0.0, 0.5))),
    ],
)
def test_what_is_written(text: str, parse: type, expected: object) -> None:
    assert axis("x", text, parse) == expected


@pytest.mark.parametrize(
    ("text", "parse", "message"),
    [
        ("0.5..0.1", float, "x: 0.5 is not below 0.1"),
        ("1..1", int, "not below"),
        ("log:0..1", float, "begins above 0"),
        ("relu..tanh", str, "x is no number"),
        ("relu", str, "single value"),
        ("", str, "single value"),
    ],
)
def test_what_is_wrong_is_named(text: str, parse: type, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        axis("x", text, parse)


def test_the_first_points_are_the_same_however_many_are_drawn() -> None:
    space = {"lr": Range(1e-4, 1e-1, True, False), "n": Range(1, 9, False, True), "a": Choice(("x", "y"))}
    points = draw(space, 50, seed=3)
    assert points[:7] == draw(space, 7, seed=3)
    assert points != draw(space, 50, seed=4)
    assert len({repr(point) for point in points}) == 50


def test_a_small_space_is_tried_whole_and_nothing_twice() -> None:
    space = {"n": Range(1, 3, False, True), "a": Choice(("x", "y"))}
    assert size(space) == 6
    points = draw(space, 100, seed=0)
    assert sorted((point["n"], point["a"]) for point in points) == [(n, a) for n in (1, 2, 3) for a in "xy"]
    assert size({"lr": Range(0.0, 1.0, False, False)}) is None


def test_a_logarithmic_range_has_as_many_points_in_each_power_of_ten() -> None:
    values = [point["lr"] for point in draw({"lr": Range(1e-4, 1e-1, True, False)}, 3000, seed=0)]
    counts = [sum(10.0**low <= value < 10.0 ** (low + 1) for value in values) for low in (-4, -3, -2)]
    assert all(900 < count < 1100 for count in counts)


@given(
    st.floats(1e-6, 1e3),
    st.floats(1.001, 1e4),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_no_point_is_outside(low: float, factor: float, logarithmic: bool, seed: int) -> None:
    space = {"x": Range(low, low * factor, logarithmic, False)}
    for point in draw(space, 3, seed):
        assert low <= point["x"] <= low * factor
        assert math.isfinite(point["x"])
