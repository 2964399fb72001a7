"""Where dlenv keeps what is its own, by each platform's rules."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def data() -> Path:
    """What must not be lost: records of what was downloaded and where it was put."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = _xdg("XDG_DATA_HOME", Path.home() / ".local" / "share")
    return base / "dlenv"


def cache() -> Path:
    """What can be downloaded again."""
    if sys.platform == "win32":
        return data() / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dlenv"
    return _xdg("XDG_CACHE_HOME", Path.home() / ".cache") / "dlenv"


def _xdg(variable: str, default: Path) -> Path:
    """XDG Base Directory Specification: a relative value must be ignored."""
    given = Path(os.environ.get(variable, ""))
    return given if given.is_absolute() else default
