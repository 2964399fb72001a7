"""What a shell may complete beside commands and options: names of models, of architectures and of checks.

The shell calls ``dlenv`` at each press of the key, so nothing heavy is imported here, and nothing is ever said: where
names can't be had, there are none.
"""

from __future__ import annotations

from pathlib import Path

import click

from dlenv.errors import DlenvError

__all__ = ["architectures", "checks", "models"]


def models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of models, and their versions once a slash is there; of ``--repository``, if that is given before."""
    from dlenv_models.repository import Repository

    root: Path | None = ctx.params.get("repository")
    try:
        entries = [entry for entry in Repository(root).entries() if entry.problem is None]
    except (DlenvError, OSError):
        return []
    names = [f"{entry.name}/{entry.version}" if "/" in incomplete else entry.name for entry in entries]
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


def architectures(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of what can be trained."""
    from dlenv_models.architectures import ARCHITECTURES

    return [name for name in ARCHITECTURES if name.startswith(incomplete)]


def checks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of the doctor's checks, and of their groups."""
    from dlenv.doctor.registry import CHECKS

    names = [*(check.group for check in CHECKS), *(check.id for check in CHECKS)]
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]
