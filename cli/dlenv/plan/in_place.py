"""Colab and Kaggle: the course is added to the Python that is there, and what it came with is left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlenv.errors import SetupError, UsageError
from dlenv.plan import devices, lessons
from dlenv.plan.model import Candidate, Plan

if TYPE_CHECKING:
    from dlenv.catalog.contents import Catalog
    from dlenv.machine.model import Machine
    from dlenv.plan.model import Request
    from dlenv.plan.notes import Notes


def plan(machine: Machine, request: Request, catalog: Catalog, notes: Notes) -> Plan:
    """The plan for a hosted notebook: the installed torch as it is, and the course's package without what it pins.

    Raises ``UsageError`` where something else is asked for than what is there, ``SetupError`` without a torch.
    """
    place = "Kaggle" if machine.kaggle else "Colab"
    python = ".".join(machine.python.split(".")[:2])
    if request.python not in (None, python):
        raise UsageError(f"{place} has Python {python}, and dlenv can't change it to {request.python}; leave it out")
    if request.extras and not catalog.own.takes_python(python):
        raise UsageError(f"dlenv's extras need Python {catalog.own.python}, and {place} has {python}; leave --with out")
    torch = _installed(place, request, catalog)
    notes.because(
        f"{place} comes with torch {torch.torch} ({torch.build}), numpy and pandas that fit together: they stay as "
        f"they are, and only what is missing is added."
    )
    chosen = devices.choose(machine, request, notes)
    gpus = tuple(gpu.index for gpu in chosen) if torch.build.startswith("cu") else ()
    if not machine.gpus:
        notes.warn("This runtime has no GPU; on Colab choose one by Runtime > Change runtime type.")
    packages: tuple[str, ...] = ()
    course = None
    if request.course is not None:
        recipe = lessons.recipe_of(request.course, catalog)
        packages, course = (recipe.package,), lessons.course(request.course, recipe)
        notes.because(f"{recipe.package} is added without the packages from 2021 that it asks for.")
        if stack := recipe.stack(python):
            lessons.announce(recipe, stack, not gpus, python, notes)
        notes.warn(f"The notebooks are proven with dlenv's own packages, not with those of {place}; a few may fail.")
    return Plan(
        manager="colab",
        python=python,
        torch=torch,
        packages=packages,
        course=course,
        extras=request.extras,
        gpus=gpus,
        devices=tuple(f"cuda:{position}" for position in range(len(gpus))),
        reasons=tuple(notes.reasons),
        warnings=tuple(notes.warnings),
    )


def _installed(place: str, request: Request, catalog: Catalog) -> Candidate:
    if not request.installed_torch:
        raise SetupError(
            f"torch is not installed here, and dlenv leaves {place}'s own alone; start a runtime that has it, or make "
            f"an environment of its own by --manager uv"
        )
    version, _, local = request.installed_torch.partition("+")
    known = [build for build in catalog.builds if build.torch == version and build.system == "linux-x86_64"]
    build = local or next((build.build for build in known if build.on_package_index), "unknown")
    vision = (request.installed_torchvision or "").partition("+")[0]
    if request.torch not in (None, version) or request.build not in (None, build):
        asked = "+".join(part for part in (request.torch or version, request.build) if part)
        raise UsageError(
            f"{place} has torch {version} ({build}), and dlenv does not change it to {asked}; leave --torch and "
            f"--build out, or make an environment of its own by --manager uv"
        )
    vision = vision or next((build.torchvision for build in known), "unknown")
    return Candidate(torch=version, torchvision=vision, build=build, index=None)
