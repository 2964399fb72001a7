"""Checks of values that came from outside; each failure is a ``ValueError`` naming the key and the value.

The caller turns it into the error of its own kind: ``ModelInvalid`` for a manifest, ``UsageError`` for an option.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from reprlib import repr as show
from typing import Any

__all__ = ["boolean", "choice", "did_you_mean", "integer", "mapping", "number", "sequence", "show", "text"]


def mapping(value: object, where: str, keys: Collection[str], optional: Collection[str] = ()) -> Mapping[str, Any]:
    """``value`` as a mapping that has exactly ``keys``, of which those that are ``optional`` may be missing."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: {show(value)} is not an object")
    for key in value:
        if key not in keys:
            raise ValueError(f"{where}: unknown key {show(key)}; known are {', '.join(sorted(keys))}")
    for key in keys:
        if key not in value and key not in optional:
            raise ValueError(f"{where}: the key {key!r} is missing")
    return value


def text(value: object, where: str, longest: int = 200) -> str:
    """``value`` as printable text of 1 to ``longest`` characters."""
    if not isinstance(value, str):
        raise ValueError(f"{where}: {show(value)} is not text")
    if not 1 <= len(value) <= longest or not value.isprintable():
        raise ValueError(f"{where}: {show(value)} is not printable text of 1 to {longest} characters")
    return value


def boolean(value: object, where: str) -> bool:
    """``value`` as true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{where}: {show(value)} is neither true nor false")
    return value


def integer(value: object, where: str, low: int, high: int) -> int:
    """``value`` as a whole number from ``low`` to ``high``, both included."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{where}: {show(value)} is not a whole number")
    if not low <= value <= high:
        raise ValueError(f"{where}: {show(value)} is not between {low} and {high}")
    return value


def number(value: object, where: str, low: float = -math.inf, high: float = math.inf) -> float:
    """``value`` as a finite number from ``low`` to ``high``, both included."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{where}: {show(value)} is not a number")
    if not (abs(value) <= 1e300 and low <= value <= high):  # not isfinite: it overflows on a whole number of 400 digits
        raise ValueError(f"{where}: {show(value)} is not a finite number from {low:g} to {high:g}")
    return float(value)


def sequence(value: object, where: str, shortest: int, longest: int) -> Sequence[Any]:
    """``value`` as a list of ``shortest`` to ``longest`` items."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where}: {show(value)} is not a list")
    if not shortest <= len(value) <= longest:
        wanted = str(shortest) if shortest == longest else f"{shortest} to {longest}"
        raise ValueError(f"{where}: a list of {len(value)} items, where {wanted} belong")
    return value


def choice(value: object, where: str, choices: Iterable[str]) -> str:
    """``value`` as one of ``choices``; a failure lists them and names the nearest one."""
    known = list(choices)
    if isinstance(value, str) and value in known:
        return value
    raise ValueError(f"{where}: {show(value)} is not one of {', '.join(known)}{did_you_mean(value, known)}")


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` where one of ``known`` is near to ``value``, else nothing."""
    near = get_close_matches(value, list(known), n=1) if isinstance(value, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""
