"""A virtual environment, made by uv."""

from __future__ import annotations

from pathlib import Path

from dlenv.environment.layout import executable
from dlenv.errors import SetupError
from dlenv.managers import python, uv
from dlenv.managers.source import Sources


def create(path: Path, version: str, name: str, sources: Sources) -> Path:
    """An empty environment at ``path`` with Python ``version``, called ``name`` at the prompt; its interpreter.

    Raises ``SetupError`` where no such Python can be had, or the environment can't be made.
    """
    base = python.get(version, sources.python, sources.platform)
    try:
        uv.run(["venv", "--quiet", "--no-project", "--python", base, "--prompt", name, path])
    except uv.Failed as error:
        raise SetupError(f"the environment {path} could not be made: {error}") from None
    return executable(path)
