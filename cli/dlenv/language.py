"""Which language people are spoken to in, English or Chinese, and their texts in it.

A text is written once, in English, where it is raised or printed. What goes to a person at a terminal passes through
``translated``: a Chinese reader gets it in Chinese, as far as ``locale/`` has it. JSON, logs, HTTP and files are never
translated.
"""

from __future__ import annotations

import functools
import locale
import os
import sys
from typing import TYPE_CHECKING, Any

from dlenv.errors import UsageError

if TYPE_CHECKING:
    from dlenv.translation import Catalog

VARIABLE = "DLENV_LANG"
# In this order, as GNU gettext: https://www.gnu.org/software/gettext/manual/html_node/Locale-Environment-Variables.html
_LOCALE = ("LC_ALL", "LC_MESSAGES", "LANG")


def of_system() -> str:
    """The language that the system speaks, such as ``zh_CN.UTF-8``; empty where it does not say."""
    for name in _LOCALE:
        if value := os.environ.get(name):
            return value
    return locale.getlocale()[0] or ""  # Windows calls it "Chinese (Simplified)_China"


def is_chinese(name: str) -> bool:
    """Whether this is the name of a Chinese locale, of any country or script."""
    return _base(name) in ("zh", "chinese")


def check() -> None:
    """Raises ``UsageError`` where ``DLENV_LANG`` names a language that there is not."""
    value = os.environ.get(VARIABLE, "")
    if value and _base(value) not in ("zh", "en"):
        raise UsageError(f"{VARIABLE} {value!r} is no language that dlenv speaks; set it to zh or en")


def speaks_chinese() -> bool:
    """Whether texts are to be Chinese: asked for, or the system's language, and it can be written to the terminal."""
    wished = os.environ.get(VARIABLE) or _preferred() or of_system()
    return is_chinese(wished) and _takes_chinese(sys.stdout) and _takes_chinese(sys.stderr)


def translated(text: str) -> str:
    """``text`` in the reader's language; in English where there is no translation."""
    return catalog().translated(text) if speaks_chinese() else text


@functools.cache
def catalog() -> Catalog:
    """The Chinese texts."""
    from dlenv.translation import Catalog

    return Catalog.load()


def _base(name: str) -> str:
    """``zh`` of ``zh_CN.UTF-8``, ``zh-Hans``, ``zh``; ``chinese`` of Windows' name."""
    return name.lower().replace("-", "_").partition(".")[0].partition("_")[0].partition(" ")[0]


def _preferred() -> str:
    """The first of English and Chinese in ``LANGUAGE``, gettext's list, which counts unless the locale is C."""
    if (of_system() or "C").partition(".")[0] in ("C", "POSIX"):
        return ""
    names = os.environ.get("LANGUAGE", "").split(":")
    return next((name for name in names if _base(name) in ("zh", "en")), "")


def _takes_chinese(stream: Any) -> bool:
    try:
        "中文".encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
