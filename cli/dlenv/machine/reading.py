"""Reading facts that may be missing, unreadable or malformed, without ever raising."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# Far more than any file holds that is read here; a file that is not what its name says stays harmless.
_LIMIT = 64 * 1024


def attempt(look: Callable[[], T], otherwise: T) -> T:
    """What ``look`` returns, or ``otherwise`` where it raises."""
    try:
        return look()
    except Exception:  # noqa: BLE001 - a fact that can't be found out is unknown, whatever the reason
        return otherwise


def text(path: Path) -> str:
    """The file's text without blanks around it and NUL bytes; "" where it can't be read."""
    try:
        with path.open("rb") as file:
            return file.read(_LIMIT).decode(errors="replace").replace("\0", "").strip()
    except (OSError, ValueError):
        return ""


def names(folder: Path) -> list[str]:
    """The names in a folder, sorted; none where it can't be read."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except (OSError, ValueError):
        return []


def exists(path: Path) -> bool:
    """Whether it is there; what can't be looked at is not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def clean(value: str) -> str:
    """``value`` with what is no Unicode (bytes of a path or variable in another encoding) as question marks."""
    return value.encode(errors="replace").decode()
