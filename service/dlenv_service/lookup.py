"""How a model is found by name and version, wherever models are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from dlenv.errors import ModelNotFound

__all__ = ["find"]

T = TypeVar("T")


def find(models: Mapping[str, Mapping[int, T]], name: str, version: str | None = None) -> T:
    """A loaded model; the newest loaded version where none is given.

    Raises:
        ModelNotFound: it isn't loaded; names what is.
    """
    versions = models.get(name)
    if not versions:
        known = ", ".join(sorted(models)) or "none"
        raise ModelNotFound(f"model {_quote(name)} is not loaded; loaded: {known}")
    if version is None:
        return versions[max(versions)]
    try:
        return versions[int(version)] if version.isascii() and version.isdigit() else versions[0]
    except (KeyError, ValueError):
        known = ", ".join(str(each) for each in sorted(versions))
        raise ModelNotFound(f"model {name!r} has no version {_quote(version)} loaded; loaded: {known}") from None


def _quote(text: str) -> str:
    """A name from a request for an error message: short, on one line, control characters escaped."""
    return ascii(text if len(text) <= 64 else text[:61] + "...")
