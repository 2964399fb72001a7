"""Processes of our own that run one of our modules."""

from __future__ import annotations

import sys

__all__ = ["command"]


def command(module: str, *words: str) -> list[str]:
    """The command that runs ``main(*words)`` of a module, found where this process finds its modules.

    Not ``python -m``, which looks in the working directory first: a ``random.py`` there would be run.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import main; sys.exit(main(*sys.argv[1:]))"
    return [sys.executable, "-c", code, *words]
