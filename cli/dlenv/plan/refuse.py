"""Why a request can't be met here, and what could be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from packaging.version import Version

from dlenv.errors import DlenvError, SetupError, UsageError
from dlenv.plan.fit import Target, gpu_problem, host_problem
from dlenv.plan.pick import allowed, choose, newest

if TYPE_CHECKING:
    from dlenv.catalog.contents import Catalog
    from dlenv.machine.model import Machine
    from dlenv.plan.model import Request


def check_pins(request: Request, on: Target, catalog: Catalog) -> None:
    """Raises ``UsageError`` where torch or build name something that does not exist for this system."""
    here = [build for build in catalog.builds if build.system == on.system]
    versions = list(dict.fromkeys(build.torch for build in here))
    if request.torch is not None and request.torch not in versions:
        raise UsageError(
            f"torch {request.torch!r} is not known for {on.system}; known are {versions[-1]} to {versions[0]}: "
            f"{', '.join(versions[:6])}, ... (`dlenv catalog show` lists all)"
        )
    flavours = sorted({build.build for build in here})
    if request.build is not None and request.build not in flavours:
        raise UsageError(f"build {request.build!r} does not exist for {on.system}; builds are {', '.join(flavours)}")
    if request.torch is not None and request.build is not None:
        have = sorted({build.build for build in here if build.torch == request.torch})
        if request.build not in have:
            last = next((build.torch for build in here if build.build == request.build), None)
            raise UsageError(
                f"torch {request.torch} has no build {request.build} for {on.system}; it has {', '.join(have)}, "
                f"and the newest torch with {request.build} is {last}"
            )


def refusal(pythons: tuple[str, ...], on: Target, machine: Machine, request: Request, catalog: Catalog) -> DlenvError:
    """The error for a request that no build meets: the nearest build, what keeps it away, and what would do."""
    pinned = request.torch is not None or request.build is not None or request.python is not None
    error = UsageError if pinned else SetupError
    here = [build for build in catalog.builds if build.system == on.system and build.build != "xpu"]
    if not here:
        return SetupError(f"PyTorch has no wheels for {on.system}")
    pool = [build for build in allowed(request, catalog) if build.system == on.system]
    if not pool:
        last = newest(here)
        assert last is not None
        asked = request.torch or last.torch
        return error(
            f"dlenv's extras need torch {catalog.own.torch}, and torch {asked} is "
            f"{'what you asked for' if request.torch else f'the newest for {on.system}'}; leave --with out"
        )
    for python in pythons:
        fitting = [build for build in pool if host_problem(build, python, on) is None]
        if near := newest(fitting):
            problem = gpu_problem(near, on, catalog.cuda)
            assert problem is not None
            return SetupError(f"{problem.text}{_instead(pythons, on, machine, request, catalog)}")
    near = newest(build for build in pool if host_problem(build, None, on) is None)
    if near is None:
        closest = min(pool, key=lambda build: Version(build.torch))
        problem = host_problem(closest, None, on)
        assert problem is not None
        extras = " (or leave --with out, which needs this torch)" if request.extras else ""
        return error(f"{problem.text}; a newer system is needed{extras}")
    if request.python is None:
        return error(f"{near.label} has wheels for Python {_span(near.python)} only; name one by --python")
    others = [
        build for build in here if request.python in build.python and host_problem(build, request.python, on) is None
    ]
    if request.torch is None and request.build is None and not others:
        every = sorted({python for build in pool for python in build.python}, key=Version)
        return UsageError(
            f"no torch has wheels for Python {request.python} here; there are some for {_span(tuple(every))}"
        )
    return error(
        f"{near.label} has wheels for Python {_span(near.python)}, not for {request.python}; "
        f"choose one of these by --python, or leave --torch and --build out"
    )


def _instead(pythons: tuple[str, ...], on: Target, machine: Machine, request: Request, catalog: Catalog) -> str:
    free = msgspec.structs.replace(request, torch=None, build=None)
    for python in pythons:
        if choice := choose(python, on, machine, free, catalog):
            return f"; without that pin it would be {choice.build.label}, and --gpu none takes any build for the CPU"
    return "; --gpu none takes any build for the CPU"


def _span(pythons: tuple[str, ...]) -> str:
    return f"{pythons[0]} to {pythons[-1]}" if len(pythons) > 1 else pythons[0]
