"""What ``dlenv setup`` is told, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from dlenv.environment.record import Record
from dlenv.plan.model import Request


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to set up: where, from what, and how far."""

    env: Path
    request: Request
    mirror: str = "auto"  # "auto", "none", or a mirror's name
    notebooks: Path | None = None  # None: the record's, else ./d2l-<edition>
    repair: bool = False  # build again, even where nothing has changed
    record: Record | None = None  # build exactly what this record says
    machine_file: Path | None = None  # plan for the machine that this file describes
    offline: Path | None = None  # a folder that ``--download`` filled: nothing is asked of the network


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a setup."""

    environment: Path
    python: Path
    changed: bool
    record: Record
    kept: Path | None = None  # a directory that was there before and was made by somebody else
    added: tuple[str, ...] = ()  # packages that were installed by hand into the environment that was replaced
    previous: tuple[Path, ...] = ()  # earlier builds that are still in use
    notebooks: Path | None = None
    problems: tuple[str, ...] = ()  # what of the request is not done, each with the command that does it

    def to_json(self) -> dict[str, Any]:
        """The object that ``dlenv setup --json`` prints."""
        record = self.record
        return {
            "schema": 1,
            "ok": not self.problems,
            "environment": str(self.environment),
            "python": str(self.python),
            "changed": self.changed,
            "machine": record.machine.to_json(),
            "plan": record.plan.to_json(),
            "installed": {
                "torch": {
                    "version": record.torch.torch,
                    "build": record.torch.build,
                    "index": record.torch.index,
                },
                "torchvision": {"version": record.torch.torchvision},
                "packages": {package.name: package.version for package in record.packages},
            },
            "proof": record.proof,
            "kept": str(self.kept) if self.kept else None,
            "added": list(self.added),
            "notebooks": str(self.notebooks) if self.notebooks else None,
            "reasons": list(record.plan.reasons),
            "warnings": [*record.plan.warnings, *record.notes],
            "problems": list(self.problems),
        }
