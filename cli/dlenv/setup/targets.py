"""The machine that something is downloaded for: which wheels run there, and what uv calls its platform."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

import msgspec
from packaging import tags
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from dlenv.errors import UsageError
from dlenv.machine import Machine

# The glibc versions 2.x that `uv pip compile --python-platform <arch>-manylinux_2_<x>` knows.
_UV_GLIBC = (17, 28, *range(31, 41))
# PEP 600: the names that these glibc versions had before.
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
# The oldest glibc that manylinux wheels were defined for: PEP 513 for x86_64, PEP 599 for the others.
_OLDEST_GLIBC = {"x86_64": 5, "aarch64": 17}
_MAC = {"arm64": "aarch64", "x86_64": "x86_64"}  # uv's words for the architectures
_WINDOWS = {"x86_64": ("x86_64", "win_amd64"), "arm64": ("aarch64", "win_arm64")}  # uv's and the wheels' words


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One machine and one version of Python, in the words of uv and of wheels."""

    python: str  # "3.11"
    platform: str  # for `uv pip compile --python-platform`
    interpreter: tuple[str, str, str]  # os, architecture and libc in `uv python list --output-format json`
    platforms: tuple[str, ...]  # the wheels' platform tags that run there, the best first
    environment: Mapping[str, str] = {}  # uv's variables that belong to ``platform``

    def best(self, names: Iterable[str]) -> str | None:
        """The wheel among these file names that fits best, or None where none runs there."""
        rank = _rank(self.python, self.platforms)
        fitting = [place for name in names if (place := _place(name, rank)) is not None]
        return min(fitting)[-1] if fitting else None


def target(machine: Machine, python: str) -> Target:
    """What runs on ``machine`` with Python ``python`` ("3.11"); raises ``UsageError`` where no wheels can."""
    if machine.os == "linux" and machine.libc and machine.libc[0] == "glibc" and machine.arch in _OLDEST_GLIBC:
        return _linux(machine.arch, _numbers(machine.libc[1])[1], python)
    if machine.os == "macos" and machine.arch in _MAC:
        version = _numbers(machine.os_version)
        return Target(
            python=python,
            platform=f"{_MAC[machine.arch]}-apple-darwin",
            interpreter=("macos", _MAC[machine.arch], "none"),
            platforms=tuple(tags.mac_platforms((version[0], version[1]), machine.arch)),
            environment={"MACOSX_DEPLOYMENT_TARGET": f"{version[0]}.{version[1]}"},
        )
    if machine.os == "windows" and machine.arch in _WINDOWS:
        arch, platform = _WINDOWS[machine.arch]
        return Target(
            python=python,
            platform=f"{arch}-pc-windows-msvc",
            interpreter=("windows", arch, "none"),
            platforms=(platform,),
        )
    raise UsageError(f"nothing can be downloaded for {describe(machine)}: there are no wheels of PyTorch for it")


def describe(machine: Machine) -> str:
    """The machine as far as wheels go: "linux on x86_64 with glibc 2.36"."""
    text = f"{machine.os} on {machine.arch}"
    if machine.libc:
        return f"{text} with {' '.join(machine.libc)}"
    return f"{text}, version {machine.os_version}" if machine.os == "macos" else text


def mismatch(made_for: Machine, machine: Machine) -> bool:
    """Whether wheels that were chosen for one machine do not run on the other."""
    if (made_for.os, made_for.arch) != (machine.os, machine.arch):
        return True
    if made_for.os == "macos":  # a newer one runs what an older one does
        return _numbers(machine.os_version) < _numbers(made_for.os_version)
    if made_for.libc is None:
        return False
    if machine.libc is None or made_for.libc[0] != machine.libc[0]:
        return True
    return _numbers(machine.libc[1]) < _numbers(made_for.libc[1])


def _linux(arch: str, glibc: int, python: str) -> Target:
    known = [minor for minor in _UV_GLIBC if minor <= glibc]
    if not known:
        raise UsageError(f"nothing can be downloaded for glibc 2.{glibc}: wheels of PyTorch need 2.17 or newer")
    platforms = []
    for minor in range(glibc, _OLDEST_GLIBC[arch] - 1, -1):
        platforms.append(f"manylinux_2_{minor}_{arch}")
        if minor in _LEGACY:
            platforms.append(f"{_LEGACY[minor]}_{arch}")
    return Target(
        python=python,
        platform=f"{arch}-manylinux_2_{known[-1]}",
        interpreter=("linux", arch, "gnu"),
        platforms=(*platforms, f"linux_{arch}"),
    )


@cache
def _rank(python: str, platforms: tuple[str, ...]) -> Mapping[Tag, int]:
    """The tags of wheels that run there, and how well each fits: the lower, the better."""
    major, minor = (int(part) for part in python.split("."))
    abi = f"cp{major}{minor}"
    order = [
        *tags.cpython_tags((major, minor), [abi], platforms),
        *tags.compatible_tags((major, minor), abi, platforms),
    ]
    return {tag: place for place, tag in enumerate(order)}


def _place(name: str, rank: Mapping[Tag, int]) -> tuple[int, int, str] | None:
    """Where a wheel stands among others of its version: by its best tag, then the higher build number."""
    try:
        _, _, build, own = parse_wheel_filename(name)
    except InvalidWheelFilename:
        return None
    places = [rank[tag] for tag in own if tag in rank]
    return (min(places), -build[0] if build else 0, name) if places else None


def _numbers(version: str) -> tuple[int, int]:
    """The first two numbers of a version; what can't be read counts as 0."""
    parts = [int(part) if part.isdecimal() else 0 for part in version.split(".")]
    return parts[0], parts[1] if len(parts) > 1 else 0
