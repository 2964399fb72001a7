"""Which builds of PyTorch a machine can run, and what stands in the way of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from dlenv.catalog.cuda import Cuda, number, parse

if TYPE_CHECKING:
    from dlenv.catalog.cuda import DriverSystem
    from dlenv.catalog.torch import Build, System
    from dlenv.machine.model import Gpu, Machine

# Short names for what a build can't do without; "gpu" and "driver" can change, the rest is the system's.
Obstacle = Literal["system", "python", "libc", "macos", "driver", "gpu"]


# The oldest macOS on which a torch uses Apple's GPU, which can be newer than the one that its wheel installs on: from
# torch 2.9 on pytorch/pytorch#162921, from 2.5 on #133141, before them the documentation of 1.12, "MPS backend".
_MPS = {"2.9.0": "14.0", "2.5.0": "13.0"}
_MPS_BEFORE = "12.3"
# The first torch whose wheels take numpy 2: pytorch/pytorch#132179; on Windows 2.4.1 (#128860, #135013).
_NUMPY_2: dict[str, str] = {"windows-x86_64": "2.4.1"}
_NUMPY_2_ELSEWHERE = "2.3.0"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a build can't run: of what kind, in words, and what would help."""

    kind: Obstacle
    text: str


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What a build has to run on."""

    system: System
    glibc: str | None = None  # None: not Linux, or not known
    macos: str | None = None
    driver: str | None = None
    driver_system: DriverSystem = "linux"  # whose driver numbers count: Windows' own under WSL
    cuda_driver: str | None = None  # the highest CUDA version that the driver supports in full
    gpus: tuple[Gpu, ...] = ()  # that the build has to run on
    gfx: tuple[str, ...] = ()  # AMD GPUs, one of which the build has to run on


def target(machine: Machine, system: System, gpus: tuple[Gpu, ...], gfx: tuple[str, ...], facts: Cuda) -> Target:
    """``machine`` with these GPUs of NVIDIA's, or one of these of AMD's, to run on."""
    windows = machine.os == "windows" or machine.wsl > 0
    driver = machine.driver if machine.driver and parse(machine.driver) else None
    supported = machine.cuda_driver if machine.cuda_driver and parse(machine.cuda_driver) else None
    if supported is None and driver:
        supported = facts.full_support(driver, "windows" if windows else "linux")
    libc = machine.libc if machine.libc and machine.libc[0] == "glibc" and parse(machine.libc[1]) else None
    return Target(
        system=system,
        glibc=libc[1] if libc and machine.os == "linux" else None,
        macos=machine.os_version if machine.os == "macos" and parse(machine.os_version) else None,
        driver=driver,
        driver_system="windows" if windows else "linux",
        cuda_driver=supported,
        gpus=gpus,
        gfx=gfx,
    )


def host_problem(build: Build, python: str | None, on: Target) -> Problem | None:
    """What keeps the build from being installed and started here, GPU or not; ``python`` None leaves that open."""
    if build.system != on.system:
        return Problem(kind="system", text=f"{build.label} has no wheel for {on.system}")
    if python is not None and python not in build.python:
        return Problem(
            kind="python",
            text=f"{build.label} has wheels for Python {build.python[0]} to {build.python[-1]}, not for {python}",
        )
    if build.glibc and on.glibc and number(on.glibc) < number(build.glibc):
        return Problem(kind="libc", text=f"{build.label} needs glibc {build.glibc} or newer, and this is {on.glibc}")
    if build.macos and on.macos:
        floor = build.macos[python] if python else min(build.macos.values(), key=number)
        if number(on.macos) < number(floor):
            return Problem(kind="macos", text=f"{build.label} needs macOS {floor} or newer, and this is {on.macos}")
    return None


def gpu_problem(build: Build, on: Target, facts: Cuda) -> Problem | None:
    """What keeps the build from using every chosen GPU; None also where it needs no driver."""
    if build.build.startswith("rocm"):
        if on.gfx and not set(on.gfx) & set(build.gfx):
            return Problem(kind="gpu", text=f"{build.label} has no code for {', '.join(on.gfx)}")
        return None
    if build.cuda is None:
        return None
    for gpu in on.gpus:
        if problem := _driver_problem(build, gpu, on, facts) or _code_problem(build, gpu, on):
            return problem
    return None


def _driver_problem(build: Build, gpu: Gpu, on: Target, facts: Cuda) -> Problem | None:
    assert build.cuda is not None
    floor = facts.floor(build.cuda, on.driver_system, gpu.compute_capability)
    if on.driver is not None:
        if number(on.driver) < number(floor):
            return Problem(
                kind="driver",
                text=f"{build.label} on {gpu.name} needs driver {floor} or newer, and this is {on.driver}",
            )
    elif on.cuda_driver is None:
        return Problem(kind="driver", text=f"{build.label} needs driver {floor} or newer, and none is known here")
    elif number(on.cuda_driver).major < number(build.cuda).major:
        return Problem(
            kind="driver",
            text=f"{build.label} needs a driver for CUDA {build.cuda}, and this one supports {on.cuda_driver}",
        )
    return None


def _code_problem(build: Build, gpu: Gpu, on: Target) -> Problem | None:
    """Machine code runs on later GPUs of its major version; PTX on every later one whose driver can compile it.

    Under minor-version compatibility a driver can't compile PTX of a newer CUDA than its own.
    """
    capability = number(gpu.compute_capability or "0")
    for code in map(number, build.sm):
        if code.major == capability.major and code.minor <= capability.minor:
            return None
    compiles = on.cuda_driver is not None and number(on.cuda_driver) >= number(build.cuda or "0")
    if compiles and any(capability >= number(ptx) for ptx in build.ptx):
        return None
    return Problem(
        kind="gpu",
        text=f"{build.label} has no code for {gpu.name} (compute capability {gpu.compute_capability})",
    )


def mps_floor(build: Build) -> str:
    """The oldest macOS on which this torch uses Apple's GPU."""
    return next((macos for since, macos in _MPS.items() if number(build.torch) >= number(since)), _MPS_BEFORE)


def uses_mps(build: Build, on: Target) -> bool:
    """Whether the build computes on Apple's GPU under this macOS."""
    return build.build == "mps" and not (on.macos and number(on.macos) < number(mps_floor(build)))


def needs_numpy_1(build: Build) -> bool:
    """Whether this torch was built for numpy 1 and fails beside numpy 2, which it does not declare."""
    return number(build.torch) < number(_NUMPY_2.get(build.system, _NUMPY_2_ELSEWHERE))
