"""PyTorch's builds as the catalog knows them: ``torch.toml``, spread out into one ``Build`` for each wheel set."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Literal, get_args

import msgspec
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from dlenv.catalog import read

System = Literal["linux-x86_64", "linux-aarch64", "windows-x86_64", "macos-arm64", "macos-x86_64"]


class _Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    source: str
    date: str


class Own(_Row, frozen=True, kw_only=True):
    """What dlenv asks of an environment that holds its extras."""

    python: str
    torch: str

    def takes_python(self, python: str) -> bool:
        """Whether dlenv's extras can be installed for this Python ("3.11")."""
        return SpecifierSet(self.python).contains(python)

    def takes_torch(self, torch: str) -> bool:
        """Whether dlenv's extras work with this version of torch."""
        return SpecifierSet(self.torch).contains(torch)


class Release(_Row, frozen=True, kw_only=True):
    """Releases that differ in nothing but their number; ``torch.toml`` explains the fields."""

    versions: dict[str, str]
    python: tuple[str, ...]
    glibc: str
    newer_glibc: dict[str, str] = {}
    macos: str
    macos_python: dict[str, str] = {}
    package_index: dict[System, str]
    builds: dict[str, tuple[System, ...]]
    unconfirmed: tuple[str, ...] = ()


class Code(_Row, frozen=True, kw_only=True):
    """NVIDIA GPUs that CUDA builds have code for, by compute capability."""

    builds: tuple[str, ...]
    systems: tuple[System, ...]
    since: str
    until: str
    sm: tuple[str, ...]
    ptx: tuple[str, ...] = ()

    def holds(self, torch: str, build: str, system: System) -> bool:
        """Whether this row describes that build."""
        inside = Version(self.since) <= Version(torch) <= Version(self.until)
        return inside and build in self.builds and system in self.systems


class Rocm(_Row, frozen=True, kw_only=True):
    """AMD GPUs that ROCm builds have code for, by LLVM target."""

    builds: tuple[str, ...]
    gfx: tuple[str, ...]


class Size(_Row, frozen=True, kw_only=True):
    """Room that a build and all that it depends on take."""

    torch: str
    build: str
    system: System
    wheel_mib: int | None = None
    installed_mib: int | None = None


class IntelMac(_Row, frozen=True, kw_only=True):
    """The oldest macOS for Intel Macs."""

    macos: str


class Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The facts of ``torch.toml``."""

    wheel_index: str
    package_index: str
    own: Own
    release: tuple[Release, ...]
    code: tuple[Code, ...]
    rocm: tuple[Rocm, ...]
    size: tuple[Size, ...]
    intel_mac: IntelMac


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """One torch with its torchvision in one flavour for one system."""

    torch: str
    torchvision: str
    build: str  # "cu126", "cpu", "mps", "rocm7.2", "xpu"
    system: System
    python: tuple[str, ...]
    index: str | None  # address of the wheel index that has it, if one has
    on_package_index: bool  # it is what the package index carries for this system
    confirmed: bool  # seen, not only announced
    glibc: str | None = None  # the oldest, on Linux
    macos: dict[str, str] = {}  # Python -> the oldest macOS
    sm: tuple[str, ...] = ()
    ptx: tuple[str, ...] = ()
    gfx: tuple[str, ...] = ()
    wheel_mib: int | None = None
    installed_mib: int | None = None
    source: str
    date: str

    @property
    def cuda(self) -> str | None:
        """The CUDA version of a CUDA build ("12.6")."""
        return cuda_of(self.build)

    @property
    def label(self) -> str:
        """How people write it: "2.14.1+cu126"."""
        return f"{self.torch}+{self.build}"


def cuda_of(build: str) -> str | None:
    """ "cu126" -> "12.6"; None for what is no CUDA build."""
    digits = build.removeprefix("cu")
    return f"{digits[:-1]}.{digits[-1]}" if build.startswith("cu") and digits.isdigit() and len(digits) > 1 else None


def spread(facts: Facts) -> tuple[Build, ...]:
    """Every build, the newest torch first; raises ``ValueError`` where the facts contradict each other."""
    versions = [version for row in facts.release for version in row.versions]
    if twice := {version for version in versions if versions.count(version) > 1}:
        raise ValueError(f"torch {', '.join(sorted(twice))} is listed twice")
    builds = [build for row in facts.release for build in _of_row(row, facts)]
    known = {(build.torch, build.build, build.system) for build in builds}
    for size in facts.size:
        if (size.torch, size.build, size.system) not in known:
            raise ValueError(f"a size is given for {size.torch}+{size.build} on {size.system}, which does not exist")
    for code in facts.code:
        if Version(code.since) > Version(code.until):
            raise ValueError(f"code of {', '.join(code.builds)}: since {code.since} is after until {code.until}")
    return tuple(sorted(builds, key=lambda build: Version(build.torch), reverse=True))


def _of_row(row: Release, facts: Facts) -> Iterator[Build]:
    if unknown := set(row.unconfirmed) - set(row.builds):
        raise ValueError(f"{', '.join(sorted(unknown))} is unconfirmed in {row.versions} and no build there")
    exceptions = set(row.newer_glibc) - set(row.builds) - set(get_args(System))
    if exceptions or not set(row.macos_python) <= set(row.python):
        raise ValueError(f"the exceptions in {row.versions} name what is neither a build, a system nor a Python")
    for torch, torchvision in row.versions.items():
        for system in get_args(System):
            flavours = {build for build, systems in row.builds.items() if system in systems}
            own = row.package_index.get(system)
            for build in sorted(flavours | ({own} if own else set())):
                sm, ptx = _code(torch, build, system, facts)
                size = next((s for s in facts.size if (s.torch, s.build, s.system) == (torch, build, system)), None)
                yield Build(
                    torch=torch,
                    torchvision=torchvision,
                    build=build,
                    system=system,
                    python=row.python,
                    index=facts.wheel_index.format(build=build) if build in flavours else None,
                    on_package_index=build == own,
                    confirmed=build == own or build not in row.unconfirmed,
                    glibc=_glibc(row, build, system),
                    macos=_macos(row, system, facts),
                    sm=sm,
                    ptx=ptx,
                    gfx=_gfx(build, facts),
                    wheel_mib=size.wheel_mib if size else None,
                    installed_mib=size.installed_mib if size else None,
                    source=row.source,
                    date=row.date,
                )


def _glibc(row: Release, build: str, system: System) -> str | None:
    if not system.startswith("linux"):
        return None
    return max((row.glibc, row.newer_glibc.get(build, "0"), row.newer_glibc.get(system, "0")), key=Version)


def _macos(row: Release, system: System, facts: Facts) -> dict[str, str]:
    if system == "macos-x86_64":
        return dict.fromkeys(row.python, facts.intel_mac.macos)
    if system == "macos-arm64":
        return {python: row.macos_python.get(python, row.macos) for python in row.python}
    return {}


def _code(torch: str, build: str, system: System, facts: Facts) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if cuda_of(build) is None:
        return (), ()
    rows = [row for row in facts.code if row.holds(torch, build, system)]
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows say which GPUs {torch}+{build} on {system} has code for, instead of one")
    return rows[0].sm, rows[0].ptx


def _gfx(build: str, facts: Facts) -> tuple[str, ...]:
    if not build.startswith("rocm"):
        return ()
    rows = [row for row in facts.rocm if build in row.builds]
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows say which GPUs {build} has code for, instead of one")
    return rows[0].gfx


@cache
def facts() -> Facts:
    """The facts of ``torch.toml``."""
    return read("torch", Facts)
