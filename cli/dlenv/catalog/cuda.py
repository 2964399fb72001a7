"""What NVIDIA's drivers run: the oldest driver for each CUDA version and generation of GPU."""

from __future__ import annotations

from functools import cache
from typing import Literal

import msgspec
from packaging.version import InvalidVersion, Version

from dlenv.catalog import read

DriverSystem = Literal["linux", "windows"]


class DriverFloor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The oldest driver that runs every build of one CUDA major version (minor-version compatibility)."""

    cuda: int
    linux: str
    windows: str
    source: str
    date: str


class Generation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """GPUs that need a newer driver than their CUDA version does."""

    compute_capability: tuple[int, ...]  # major versions
    linux: str
    windows: str
    source: str
    date: str


class Toolkits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """CUDA version -> the first driver that supports it in full."""

    linux: dict[str, str]
    windows: dict[str, str]
    source: str
    date: str


class Cuda(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The facts of ``cuda.toml``."""

    driver: tuple[DriverFloor, ...]
    generation: tuple[Generation, ...]
    toolkits: Toolkits

    def floor(self, cuda: str, system: DriverSystem, capability: str | None = None) -> str:
        """The oldest driver for builds of CUDA ``cuda`` ("12.6") on a GPU of this compute capability ("12.0")."""
        row = next(row for row in self.driver if row.cuda == int(cuda.partition(".")[0]))
        floors = [row.linux if system == "linux" else row.windows]
        if capability is not None:
            major = int(capability.partition(".")[0])
            floors += [
                generation.linux if system == "linux" else generation.windows
                for generation in self.generation
                if major in generation.compute_capability
            ]
        return max(floors, key=number)

    def full_support(self, driver: str, system: DriverSystem) -> str | None:
        """The highest CUDA version that this driver supports in full, or None below the oldest that is known."""
        version = parse(driver)
        known = dict(self.toolkits.linux if system == "linux" else self.toolkits.windows)
        for row in self.driver:  # the first driver of a major version supports at least its first minor version
            known.setdefault(f"{row.cuda}.0", row.linux if system == "linux" else row.windows)
        fitting = [cuda for cuda, first in known.items() if version is not None and version >= number(first)]
        return max(fitting, key=number, default=None)


@cache
def parse(version: str) -> Version | None:
    """A version as numbers that compare; None where it is none."""
    try:
        return Version(version)
    except InvalidVersion:
        return None


@cache
def number(version: str) -> Version:
    """A version of the catalog's as numbers that compare; the same few are compared thousands of times."""
    return Version(version)


@cache
def cuda() -> Cuda:
    """What NVIDIA's drivers run."""
    return read("cuda", Cuda)
