"""A space of options to search: how it is written, and which points of it are tried.

The points are drawn before anything is trained, from the seed alone, so a search that is taken up again tries the same.
Random search beats a grid where few of the options matter (Bergstra and Bengio, "Random Search for Hyper-Parameter
Optimization", 2012; d2l 19.1).
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["Axis", "Choice", "Range", "axis", "draw", "size"]

_RANGE = re.compile(r"(?P<log>log:)?(?P<low>[^.|]+(\.\d[^.|]*)?)\.\.(?P<high>[^|]+)")
_MOST_POINTS = 1_000_000
_REPEATED = 10_000  # draws in a row that are all known: a narrow range has few numbers of four digits


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def draw(self, source: random.Random) -> Any:
        """One of them, each as likely."""
        return source.choice(self.values)


@dataclass(frozen=True)
class Range:
    """A number from ``low`` to ``high``, both possible; ``logarithmic``: each factor is as likely as any other."""

    low: float
    high: float
    logarithmic: bool
    whole: bool  # whole numbers only

    def draw(self, source: random.Random) -> float | int:
        """One number, rounded to four digits, so that it can be read and typed again."""
        if self.logarithmic:
            value = math.exp(source.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = source.uniform(self.low, self.high)
        value = round(value) if self.whole else float(f"{value:.4g}")
        return min(max(value, self.low), self.high) if not self.whole else int(min(max(value, self.low), self.high))


Axis: TypeAlias = Choice | Range


def axis(name: str, text: str, parse: Callable[[str], Any]) -> Axis:
    """``"0..0.5"``, ``"log:1e-4..1e-1"`` or ``"relu|tanh"``, values as ``parse`` reads a single one.

    Raises ``ValueError`` naming what is wrong.
    """
    if found := _RANGE.fullmatch(text):
        low, high = parse(found["low"]), parse(found["high"])
        if not all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in (low, high)):
            raise ValueError(f"{name}: {text!r} is a range, and {name} is no number; name its values: A|B|C")
        if not low < high:
            raise ValueError(f"{name}: {found['low']} is not below {found['high']}")
        if found["log"] and low <= 0:
            raise ValueError(f"{name}: a logarithmic range begins above 0, and this at {found['low']}")
        return Range(low, high, bool(found["log"]), isinstance(low, int) and isinstance(high, int))
    values = tuple(parse(part) for part in text.split("|"))
    if len(values) < 2:
        raise ValueError(f"{name}: {text!r} is a single value; give A..B, log:A..B or A|B|C, or set it without --vary")
    return Choice(values)


def size(space: Mapping[str, Axis]) -> int | None:
    """How many different points there are; None where there are too many to count or no end of them."""
    count = 1
    for each in space.values():
        if isinstance(each, Range) and not each.whole:
            return None
        count *= len(each.values) if isinstance(each, Choice) else int(each.high - each.low) + 1
        if count > _MOST_POINTS:
            return None
    return count


def draw(space: Mapping[str, Axis], count: int, seed: int) -> list[dict[str, Any]]:
    """``count`` different points, or as many as are found; the first ones are the same whatever ``count`` is."""
    source = random.Random(seed)  # noqa: S311 - not a secret, but the same with every version of Python
    wanted = min(count, size(space) or count)
    points: dict[str, dict[str, Any]] = {}
    repeated = 0
    while len(points) < wanted and repeated < _REPEATED:
        point = {name: each.draw(source) for name, each in space.items()}
        repeated = repeated + 1 if repr(point) in points else 0
        points.setdefault(repr(point), point)
    return list(points.values())
