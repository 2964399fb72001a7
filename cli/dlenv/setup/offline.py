"""A folder that ``dlenv setup --download`` filled: what is in it, whether it is whole, and installing from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from dlenv.console import command_line, say
from dlenv.environment.record import Record
from dlenv.errors import DataError, SetupError, UsageError
from dlenv.machine import Machine
from dlenv.managers.source import Source, Sources
from dlenv.network.download import digest
from dlenv.plan.model import Edition
from dlenv.setup import targets
from dlenv.setup.wishes import contradiction

NAME = "dlenv-offline.json"
WHEELS = "wheels"
# What UV_PYTHON_INSTALL_MIRROR names: below it the archives lie as below ".../releases/download/" at their publisher.
PYTHON = "interpreter"
NOTEBOOKS = "notebooks"


class File(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the folder."""

    path: str  # below the folder, with "/"
    size: int  # bytes
    sha256: str

    @property
    def inside(self) -> bool:
        """Whether its path leads nowhere but below the folder, on any system."""
        parts = re.split(r"[/\\]", self.path)
        return all(part not in ("", ".", "..") and ":" not in part for part in parts)

    def trouble(self, folder: Path) -> str | None:
        """What is wrong with the file in ``folder``, or None."""
        path = folder / self.path
        try:
            size = path.stat().st_size
            if size != self.size:
                return f"{path} is damaged: it has {size:,} bytes, not {self.size:,}"
            return None if digest(path) == self.sha256 else f"{path} is damaged: its SHA-256 is another one"
        except OSError as error:
            return f"{path} can't be read ({error.strerror})"


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """Everything in the folder; written when all of it is there."""

    schema: int = 1
    record: Record  # for which machine, and what is to be installed there; without a proof
    files: tuple[File, ...]
    pythons: tuple[str, ...]  # that the dlenv in the folder can be started with
    notebooks: str | None = None  # path of the archive of the course's notebooks
    problems: tuple[str, ...] = ()  # what could not be had

    @staticmethod
    def read(folder: Path) -> Contents:
        """The contents of ``folder``; raises ``UsageError`` where it is not filled, or only half."""
        path = folder / NAME
        again = f"fill it on a machine with network: {_filling(folder)}"
        try:
            contents = msgspec.json.decode(path.read_bytes(), type=Contents)
        except FileNotFoundError:
            state = "was not filled to the end" if (folder / WHEELS).is_dir() else "is not filled"
            raise UsageError(f"{folder} {state}: there is no {NAME} in it; {again}") from None
        except OSError as error:
            raise UsageError(f"{path} can't be read ({error.strerror})") from None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} is damaged ({error}); {again}") from None
        if contents.schema != 1:
            raise UsageError(f"{path} has schema {contents.schema}, and this dlenv reads 1; use the dlenv in {folder}")
        if outside := [file.path for file in contents.files if not file.inside]:
            raise UsageError(f"{path} is damaged (it names {outside[0]!r}, which is not in the folder); {again}")
        return contents

    def write(self, folder: Path) -> None:
        """Write the contents into ``folder``, whole or not at all."""
        path = folder / NAME
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps(msgspec.to_builtins(self), indent=2) + "\n", encoding="utf-8")
        scratch.replace(path)

    @property
    def archive(self) -> File | None:
        """The archive of the course's notebooks."""
        return next((file for file in self.files if file.path == self.notebooks), None)

    def to_json(self, folder: Path) -> dict[str, Any]:
        """The object that ``dlenv setup --download --json`` prints."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        return {"schema": 1, "ok": not self.problems, "folder": str(folder.absolute()), "size": self.size, **data}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def record(folder: Path, given: dict[str, Any]) -> Record:
    """What to install from ``folder``; raises ``UsageError`` where an option asks for something else.

    ``given`` holds the options of ``dlenv setup`` that say what is wanted; None or "auto": not asked for.
    """
    found = Contents.read(folder).record
    if other := contradiction(found, given):
        option, has = other
        raise UsageError(
            f"{option} is not what {folder} was filled for ({has}); leave it out, or fill another folder on a machine "
            f"with network: dlenv setup --download DIR {option}"
        )
    return found


def check_machine(folder: Path, made_for: Machine, machine: Machine) -> None:
    """Raise ``UsageError`` where what lies in ``folder`` does not run on ``machine``."""
    if targets.mismatch(made_for, machine):
        raise UsageError(
            f"{folder} was filled for {targets.describe(made_for)}, and this is {targets.describe(machine)}; here: "
            "dlenv setup --dry-run --json > machine.json; then on a machine with network: "
            "dlenv setup --download DIR --for machine.json"
        )


def sources(folder: Path) -> Sources:
    """``folder`` as the only place that everything is taken from, once each of its files is what it should be.

    Raises ``SetupError`` naming the first one that is missing or damaged.
    """
    contents = Contents.read(folder)
    say(f"Checking {len(contents.files)} files ({contents.size / 1e9:.1f} GB) in {folder}")
    for file in contents.files:
        if trouble := file.trouble(folder):
            raise SetupError(
                f"{trouble}; copy it again, or mend the folder on a machine with network: {_filling(folder)}"
            )
    offline = {"UV_OFFLINE": "1"}
    source = Source(
        candidate=contents.record.torch,
        folder=(folder / WHEELS).absolute(),
        environment=offline,
        label=str(folder),
    )
    python = {**offline, "UV_PYTHON_INSTALL_MIRROR": (folder / PYTHON).absolute().as_uri()}
    return Sources(packages=(source,), python=(python,))


def _filling(folder: Path) -> str:
    return command_line("dlenv", "setup", "--download", folder)


def put_notebooks(folder: Path, edition: Edition, place: Path) -> None:
    """Put the notebooks that are in ``folder`` into ``place``, unless they are there already; raises ``DlenvError``."""
    from dlenv.notebooks.fetch import fetch_notebooks
    from dlenv.notebooks.folder import Manifest, missing

    archive = Contents.read(folder).archive
    if archive is None:
        raise DataError(f"they are not in {folder}")
    if trouble := archive.trouble(folder):
        raise DataError(trouble)
    there = Manifest.read(place)
    if there is None or there.archive != archive.sha256 or missing(place, there):
        fetch_notebooks(edition, place, archive=folder / archive.path)
