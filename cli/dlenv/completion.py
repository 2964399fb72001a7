"""What a shell may complete beside commands and options: names of models, data sets, checks and so on, and files.

The shell calls ``dlenv`` at each press of the key, so nothing heavy is imported here, and nothing is ever said: where
names can't be had, there are none.
"""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from dlenv.errors import DlenvError

__all__ = ["architectures", "checks", "data", "experiments", "files", "mirrors", "models"]

# Of dlenv_models.data and dlenv_models.experiments, which import PyTorch and Matplotlib; a test keeps them the same.
DATASETS = ("spiral", "digits", "mnist5k", "mnist", "fashion-mnist", "cifar10")
EXPERIMENTS = (
    *("saving-memory", "linear-regression", "polynomial-degree", "weight-decay", "spiral", "depth-width"),
    *("vanishing-gradients", "initialisation", "dropout"),
)


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


def mirrors(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of mirrors, and what may stand in place of one."""
    from dlenv.catalog.mirrors import all_names

    try:
        names = ["auto", "none", *all_names()]
    except DlenvError:
        return []
    return [name for name in names if name.startswith(incomplete)]


def experiments(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of the course's experiments."""
    return [name for name in EXPERIMENTS if name.startswith(incomplete)]


def data(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of data sets, and folders."""
    names = [CompletionItem(name) for name in DATASETS if name.startswith(incomplete)]
    return [CompletionItem(incomplete, type="dir"), *names]  # click's lines for bash forget what comes before a folder


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of files and folders."""
    return [CompletionItem(incomplete, type="file")]
