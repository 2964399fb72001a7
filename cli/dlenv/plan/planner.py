"""``make``: from a machine and a request to a plan, by the catalog's facts alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from packaging.version import Version

from dlenv.errors import SetupError, UsageError
from dlenv.plan import devices, explain, in_place, lessons, pick, refuse
from dlenv.plan.fit import Target, target
from dlenv.plan.model import Candidate, Plan
from dlenv.plan.notes import Notes

if TYPE_CHECKING:
    from dlenv.catalog.contents import Catalog
    from dlenv.catalog.torch import Build, System
    from dlenv.machine.model import Machine
    from dlenv.plan.model import Manager, Request

_SYSTEMS: dict[tuple[str, str], System] = {
    ("linux", "x86_64"): "linux-x86_64",
    ("linux", "aarch64"): "linux-aarch64",
    ("windows", "x86_64"): "windows-x86_64",
    ("macos", "arm64"): "macos-arm64",
    ("macos", "x86_64"): "macos-x86_64",
}


def make(machine: Machine, request: Request, catalog: Catalog) -> Plan:
    """The environment that this machine gets: no input, no output, the same for the same arguments.

    Raises ``UsageError`` where the request names what does not exist or can't run here, ``SetupError`` where
    the machine can't have what was asked for.
    """
    notes = Notes()
    manager = _manager(machine, request, notes)
    if request.course is not None:
        lessons.recipe_of(request.course, catalog)
    if manager == "colab":
        return in_place.plan(machine, request, catalog, notes)
    system = _system(machine)
    _check_python(request, catalog)
    gpus = devices.choose(machine, request, notes)
    on = target(machine, system, gpus, devices.amd(machine, request), catalog.cuda)
    refuse.check_pins(request, on, catalog)
    choice = _choose(on, machine, request, catalog, notes)
    explain.explain(choice, on, machine, request, catalog, notes)
    contents = lessons.contents(choice, request, catalog, notes)
    spare = pick.fallbacks(choice, on, machine, request, catalog)
    _index(choice, spare, request, notes)
    if not choice.build.confirmed:
        explain.doubt(choice, spare, on, machine, request, catalog, notes)
    return Plan(
        manager=manager,
        python=choice.python,
        torch=_candidate(choice.build),
        fallbacks=tuple(_candidate(build) for build in spare),
        packages=contents.packages,
        overrides=contents.overrides,
        course=contents.course,
        extras=request.extras,
        gpus=tuple(gpu.index for gpu in gpus) if choice.device == "cuda" else (),
        devices=devices.to_prove(choice, gpus, machine, on.gfx),
        reasons=tuple(notes.reasons),
        warnings=tuple(notes.warnings),
    )


def _manager(machine: Machine, request: Request, notes: Notes) -> Manager:
    hosted = machine.colab or machine.kaggle
    if request.manager == "colab" and not hosted:
        raise UsageError("manager 'colab' works on Colab and Kaggle only; elsewhere choose uv or conda")
    manager = request.manager or ("colab" if hosted else "uv")
    if manager == "conda":
        notes.because(
            "torch and torchvision are installed by pip inside the conda environment: PyTorch's own conda channel ends "
            "at 2.5.1."
        )
    elif manager == "uv" and not request.manager:
        notes.because("uv builds the environment: it comes with dlenv.")
    return manager


def _system(machine: Machine) -> System:
    if machine.python_bits != 64:
        raise SetupError(
            f"Python {machine.python} here is a {machine.python_bits}-bit program, and PyTorch has wheels for 64-bit "
            f"Python only; run dlenv with a 64-bit Python"
        )
    system = _SYSTEMS.get((machine.os, machine.arch))
    if system is None:
        known = ", ".join(f"{os} {arch}" for os, arch in _SYSTEMS)
        raise SetupError(
            f"PyTorch and torchvision have no wheels for {machine.os} on {machine.arch}; there are some for {known}"
        )
    if machine.os == "linux" and machine.libc and machine.libc[0] == "musl":
        raise SetupError(
            f"PyTorch has no wheels for musl {machine.libc[1]} (Alpine); use a distribution with glibc, or a container "
            f"of one, for example debian:12"
        )
    return system


def _check_python(request: Request, catalog: Catalog) -> None:
    python = request.python
    if python is None:
        return
    if not re.fullmatch(r"3\.[0-9]{1,2}", python):
        raise UsageError(f"python {python!r} is no version such as 3.11: name two numbers, without more")
    if request.extras and not catalog.own.takes_python(python):
        raise UsageError(
            f"dlenv's extras ({', '.join(request.extras)}) need Python {catalog.own.python}, not {python}; choose "
            f"another by --python, or leave --with out"
        )
    if request.course is not None:
        lessons.stack_of(request.course, lessons.recipe_of(request.course, catalog), python)


def _choose(on: Target, machine: Machine, request: Request, catalog: Catalog, notes: Notes) -> pick.Choice:
    pythons = _pythons(machine, request, catalog)
    choices = [choice for python in pythons if (choice := pick.choose(python, on, machine, request, catalog))]
    if not choices:
        raise refuse.refusal(pythons, on, machine, request, catalog)
    if request.python is not None:
        notes.because(f"Python {request.python}, as you asked.")
        return choices[0]
    if request.course is not None:
        choice = choices[0]
        if choice.python == pythons[0]:
            notes.because(f"Python {choice.python}: the most notebooks of the course run with it.")
        else:
            notes.because(f"Python {choice.python}: {pythons[0]}, which suits the course best, has no such torch.")
        return choice
    best = max(
        choices, key=lambda choice: pick.rank(choice, request)
    )  # the first of equals: dlenv's own Python, then the newest
    if best.python == pythons[0] and machine.python.startswith(f"{best.python}."):
        notes.because(f"Python {best.python}: dlenv runs on it, and torch {best.build.torch} supports it.")
    else:
        notes.because(f"Python {best.python} is the newest that torch {best.build.torch} and dlenv support.")
    return best


def _pythons(machine: Machine, request: Request, catalog: Catalog) -> tuple[str, ...]:
    """The Pythons to consider, the one to prefer first."""
    if request.python is not None:
        return (request.python,)
    if request.course is not None:
        pythons = lessons.pythons(lessons.recipe_of(request.course, catalog))
        return tuple(p for p in pythons if not request.extras or catalog.own.takes_python(p)) or pythons[:1]
    every = sorted({python for build in catalog.builds for python in build.python}, key=Version, reverse=True)
    ours = [python for python in every if catalog.own.takes_python(python)]
    running = [python for python in ours if machine.python.startswith(f"{python}.")]
    return tuple(dict.fromkeys([*running, *ours]))


def _candidate(build: Build) -> Candidate:
    return Candidate(
        torch=build.torch,
        torchvision=build.torchvision,
        build=build.build,
        index=None if build.on_package_index else build.index,
        wheel_mib=build.wheel_mib,
        installed_mib=build.installed_mib,
    )


def _index(choice: pick.Choice, spare: tuple[Build, ...], request: Request, notes: Notes) -> None:
    """Say where the wheel comes from, and what happens if it can't be had there."""
    build = choice.build
    if build.on_package_index:
        notes.because(f"{build.label} is what the package index itself carries, so no other index is needed.")
        return
    notes.because(f"{build.label} and its torchvision {build.torchvision} come from {build.index}.")
    if own := next((other for other in spare if other.on_package_index), None):
        cpu = " (it holds CUDA's libraries, which are of no use here)" if choice.device == "cpu" and own.cuda else ""
        notes.because(
            f"If that index can't be reached, the package index's own {own.label} is taken, which runs here too{cpu}."
        )
        return
    if choice.device == "cuda" and request.strict_cuda:
        lack = "has no wheel for this GPU whose CUDA is not above the driver's"
    elif choice.device != "cpu":
        lack = "has no wheel that would use this GPU"
    elif request.build is not None:
        lack = f"has no build {request.build}"
    else:
        lack = "has only wheels that would try a GPU which they have no code for"
    notes.because(f"There is no replacement if that index can't be reached: the package index {lack}.")
