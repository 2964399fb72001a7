"""Everything that the checks judge. A field is None where it was not asked for or could not be found out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from dlenv.environment.distributions import CondaPackage, Distribution
from dlenv.environment.record import Record
from dlenv.machine.model import Machine
from dlenv.plan.model import Plan
from dlenv.probe.report import Report, Stage

Purpose = Literal["packages", "pytorch", "course", "proxy"]
# "unasked": whether it answers can't be found out from here
Problem = Literal["unreachable", "certificate", "invalid", "unasked"]


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The environment that is examined."""

    python: Path  # may be missing: then that is the finding
    env: Path | None = None  # its folder; None where the Python belongs to no environment
    kind: Literal["venv", "conda", "system"] = "system"
    why: str = ""  # why this one: "VIRTUAL_ENV"
    root: bool = False  # conda's own installation, which conda itself and its other environments live in

    @property
    def is_changeable(self) -> bool:
        """Whether ``--fix`` may change it: no system's Python, and not what conda itself runs from."""
        return self.env is not None and not self.root


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An address that installing or the course needs, and whether it answers."""

    purpose: Purpose
    url: str
    source: str  # where the address comes from: "PIP_INDEX_URL", "/etc/pip.conf", "the catalog"
    ok: bool
    problem: Problem | None = None
    detail: str = ""
    seconds: float = 0.0


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A process of this user's that serving may have left, or serves now."""

    pid: int
    name: str  # "raylet", "gcs_server", "haproxy", "dlenv serve"
    seconds: float = 0.0  # since it started


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """A port that serving uses, on this machine."""

    number: int
    purpose: str
    taken: bool
    holder: str | None = None  # "raylet (pid 123)", where it can be told


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """What answers where ``dlenv serve`` listens."""

    url: str
    status: int | None = None  # HTTP; None where there was no answer in time
    detail: str = ""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the checks go by."""

    target: Target
    environ: Mapping[str, str] = {}
    folder: Path = Path()  # the current folder
    machine: Machine | None = None
    record: Record | None = None  # what dlenv wrote into the environment
    report: Report | None = None
    distributions: tuple[Distribution, ...] | None = None
    conda: tuple[CondaPackage, ...] = ()
    endpoints: tuple[Endpoint, ...] | None = None
    processes: tuple[Process, ...] | None = None
    ports: tuple[Port, ...] | None = None
    service: Service | None = None
    plan: Plan | None = None  # what dlenv would install here now
    missing: Mapping[str, str] = {}  # field -> why it is None

    def stage(self, name: str) -> Stage | None:
        """That stage of the probe."""
        return self.report.stage(name) if self.report else None

    def found(self, name: str) -> Mapping[str, object]:
        """What that stage of the probe found out; empty where it did not."""
        return self.report.facts(name) if self.report else {}

    def copies(self, name: str) -> tuple[Distribution, ...]:
        """Every installed copy of this package."""
        return tuple(item for item in self.distributions or () if item.name == name)

    def version(self, name: str) -> str | None:
        """The version of the copy that Python takes."""
        return next((item.version for item in self.copies(name)), None)
