"""Operating system, architecture, C library, processors and memory."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Literal

import psutil

from dlenv.machine.reading import names, text

System = Literal["linux", "windows", "macos", "other"]

_SYSTEMS: dict[str, System] = {"linux": "linux", "win32": "windows", "darwin": "macos"}
_MIB = 2**20
# These programs answer in milliseconds; one that does not is as good as none.
_PATIENCE = 5


def name() -> System:
    """The operating system's name."""
    return _SYSTEMS.get(sys.platform, "other")


def version(system: System, root: Path) -> str:
    """The operating system's version as its users know it."""
    if system == "macos":
        return platform.mac_ver()[0]
    if system == "linux":
        # os-release(5): /etc first, then /usr/lib.
        release = _os_release(text(root / "etc/os-release")) or _os_release(text(root / "usr/lib/os-release"))
        return release.get("PRETTY_NAME") or release.get("NAME") or "Linux"
    return platform.version()


def _os_release(content: str) -> dict[str, str]:
    """The assignments of an os-release file, which are quoted as in a shell."""
    found = {}
    for line in content.splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.startswith("#"):
            try:
                found[key.strip()] = " ".join(shlex.split(value))
            except ValueError:  # a quotation without its end
                found[key.strip()] = value.strip("\"' ")
    return found


def architecture(system: System, root: Path) -> tuple[str, bool]:
    """The machine's architecture, and whether this Python runs on it by emulation.

    On Apple silicon an x86_64 Python (Rosetta 2) is told x86_64 by everything but ``sysctl hw.optional.arm64``, and
    an x64 Python on Windows for Arm is told ARM64 from Python 3.12 on. The architecture is the machine's: programs
    for it run there as well, and on a Mac only they reach the GPU.
    """
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64", "x64": "x86_64"}.get(machine, machine)
    if machine in ("arm64", "aarch64"):
        return "aarch64" if system == "linux" else "arm64", sysconfig.get_platform() == "win-amd64"
    if system == "macos" and _output(root / "usr/sbin/sysctl", "-n", "hw.optional.arm64") == "1":
        return "arm64", True
    return machine, False


def libc(system: System, root: Path) -> tuple[str, str] | None:
    """Name and version of the C library on Linux: ``("glibc", "2.36")``, ``("musl", "1.2.5")``."""
    if system != "linux":
        return None
    try:
        library, _, release = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):  # not glibc
        library = release = ""
    if library == "glibc" and release:
        return library, release
    # musl's loader, started without a program, says its version and how it is to be called, and fails.
    for loader in names(root / "lib"):
        if re.fullmatch(r"ld-musl-.+\.so\.1", loader):
            said = re.search(r"^Version (\S+)", _output(root / "lib" / loader), re.MULTILINE)
            return "musl", said[1] if said else ""
    return None


def cpus(root: Path) -> int:
    """How many processors this process may use: the machine's, those it is bound to, or what a container is given.

    ``docker run --cpus=1.5`` gives time on all processors, and no fewer processors: the kernel's cpu.max (cgroup v2) or
    cpu.cfs_quota_us (v1). A part of a processor counts as one.
    """
    count = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota, _, period = text(root / "sys/fs/cgroup/cpu.max").partition(" ")
    if not period:
        quota, period = (text(root / f"sys/fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
    if re.fullmatch(r"\d{1,19}", quota) and re.fullmatch(r"[1-9]\d{0,18}", period):
        count = min(count, max(1, -(-int(quota) // int(period))))
    return count


def memory_mib(root: Path) -> int:
    """The memory that this process may use, in MiB: the machine's, or the container's where that has less."""
    total = psutil.virtual_memory().total
    for limit in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if value := re.fullmatch(r"\d{1,19}", text(root / limit)):
            total = min(total, int(value[0]))
    return total // _MIB


def _output(program: Path, *arguments: str) -> str:
    """What a program prints, to either stream; "" where it can't be run."""
    try:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace").strip()
