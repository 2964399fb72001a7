"""What the editions of the course need: the package, the stack that runs its notebooks, where the notebooks are."""

from __future__ import annotations

from functools import cache

import msgspec

from dlenv.catalog import read
from dlenv.plan.model import Edition, Repacked


class Stack(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Packages that run the course's notebooks together, for some versions of Python; proven by running them."""

    python: tuple[str, ...]  # ("3.10", "3.11")
    packages: tuple[str, ...]  # requirements beside torch, torchvision and the course's own package
    # Requirements that replace what the course's package declares about the same names.
    overrides: tuple[str, ...]
    repacked: tuple[Repacked, ...] = ()  # packages that some notebooks need and that dlenv makes installable
    cannot_run: dict[str, str] = {}  # notebook without ".ipynb" -> why it can't run with this stack
    source: str
    date: str


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One edition of the course."""

    title: str
    package: str  # "d2l==0.17.6"
    python: str  # what is planned where the user names none
    notebooks: tuple[str, ...]  # addresses of the official archive, tried in order
    repository: str  # address of the archive of the repository that holds the same notebooks, the fall-back
    count: int  # notebooks of the PyTorch edition, at least
    needs_network: tuple[str, ...] = ()  # notebooks that download something while they run
    needs_gpu: tuple[str, ...] = ()  # notebooks that can't run without a GPU (some: two)
    stacks: tuple[Stack, ...]
    source: str
    date: str

    def stack(self, python: str) -> Stack | None:
        """The stack for this version of Python ("3.11"), or None where there is none."""
        return next((stack for stack in self.stacks if python in stack.python), None)


@cache
def courses() -> dict[Edition, Recipe]:
    """Every edition of the course."""
    return read("courses", dict[Edition, Recipe])
