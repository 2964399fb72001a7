"""``dlenv-environment.json``: what dlenv built into an environment, to be checked, mended and built again."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import msgspec
from packaging.utils import InvalidName, canonicalize_name
from packaging.version import InvalidVersion, Version

from dlenv.errors import UsageError
from dlenv.machine.model import Machine
from dlenv.plan.model import Candidate, Plan, Request

NAME = "dlenv-environment.json"

_HASH = re.compile(r"(sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})")
# Not on the record: the tools that install packages, which come and go, and dlenv itself, which ``own`` describes.
_TOOLS = {"dlenv", "pip", "setuptools", "wheel", "uv"}


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """An installed package. No hashes: it came from a folder (dlenv itself, from a checkout)."""

    name: str
    version: str
    hashes: tuple[str, ...] = ()  # "sha256:..." of every file of this version that was offered

    def is_sound(self) -> bool:
        """Whether name, version and hashes are such: they may come from a stranger's file, and go to an installer."""
        try:
            canonical = canonicalize_name(self.name, validate=True) == self.name and str(Version(self.version)) != ""
        except (InvalidName, InvalidVersion):
            return False
        return canonical and all(_HASH.fullmatch(value) for value in self.hashes)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for, planned, installed and proven."""

    schema: int = 1
    dlenv: str  # the version that built it
    created: str  # UTC, ISO 8601
    built: str = ""  # where: an environment that was moved or copied since does not work
    request: Request
    machine: Machine
    plan: Plan
    torch: Candidate  # what was installed: the plan's, or one of its fallbacks
    packages: tuple[Package, ...]
    own: tuple[str, ...] = ()  # which dlenv is in it, and what that needs; empty without extras
    notebooks: str | None = None  # the folder of the course's notebooks, absolute
    notes: tuple[str, ...] = ()  # mirrors that were used or did not answer, and why
    proof: dict[str, Any] = {}  # the probe's report

    @staticmethod
    def path(env: Path) -> Path:
        """Where the record of an environment lies."""
        return env / NAME

    @staticmethod
    def read(env: Path) -> Record | None:
        """The record of an environment; None where it has none, or none that can be read."""
        try:
            return msgspec.json.decode(Record.path(env).read_bytes(), type=Record)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    @staticmethod
    def load(file: Path) -> Record:
        """The record in ``file``, or of the environment that is the folder ``file``; raises ``UsageError``."""
        path = Record.path(file) if file.is_dir() else file
        try:
            record = msgspec.json.decode(path.read_bytes(), type=Record)
        except OSError as error:
            raise UsageError(f"{path} can't be read ({error.strerror}); give a {NAME}") from None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} is not a {NAME} ({error})") from None
        for package in record.packages:
            if not package.is_sound():
                raise UsageError(f"{path} names a package that can't be one: {package.name!r} {package.version!r}")
        if record.schema != 1:
            raise UsageError(f"{path} has schema {record.schema}, and this dlenv reads 1; use a newer dlenv")
        return record

    def write(self, env: Path) -> None:
        """Write the record into the environment ``env``, whole or not at all."""
        path = Record.path(env)
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps(msgspec.to_builtins(self), indent=2) + "\n", encoding="utf-8")
        scratch.replace(path)

    @property
    def fingerprint(self) -> str:
        """The plan's ``fingerprint``."""
        return fingerprint(self.plan)

    def added(self, env: Path) -> list[str]:
        """Packages in ``env`` that somebody installed later: ``name==version``."""
        ours = {package.name for package in self.packages}
        return sorted(f"{name}=={version}" for name, version in installed(env).items() if name not in ours | _TOOLS)

    def changed(self, env: Path) -> list[str]:
        """Packages that are no longer in ``env`` as they were installed, each with what is there instead."""
        if self.built and self.built != str(env.resolve()):
            return [f"it was built at {self.built} and moved or copied from there"]
        if not any((env / place).exists() for place in ("bin/python", "Scripts/python.exe", "python.exe")):
            return ["its Python is missing"]
        now = installed(env)
        return [
            f"{package.name} {now.get(package.name, 'is missing')}, not {package.version}"
            for package in self.packages
            if now.get(package.name) != package.version
        ]


def fingerprint(plan: Plan) -> str:
    """The same for two plans that build the same environment, whatever their reasons say."""
    data = msgspec.to_builtins(plan)
    for key in ("reasons", "warnings"):
        del data[key]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def installed(env: Path) -> dict[str, str]:
    """Canonical name -> version of every package in the environment's own site-packages that is really there."""
    folders = [*env.glob("lib/python3.*/site-packages"), env / "Lib" / "site-packages"]
    found = distributions(path=[str(folder) for folder in folders])
    return {canonicalize_name(dist.name): dist.version for dist in found if dist.name and _is_there(dist)}


def _is_there(dist: Distribution) -> bool:
    """Whether the files by which a package is imported are there, as far as it lists them."""
    listed = [line.partition(",")[0] for line in (dist.read_text("RECORD") or "").splitlines()]
    modules = [name for name in listed if name.count("/") == 1 and name.endswith("/__init__.py")]
    return all(Path(str(dist.locate_file(name))).exists() for name in modules)
