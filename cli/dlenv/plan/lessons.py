"""What the course adds to a plan: its package, the packages that run its notebooks, and what can't run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version

from dlenv.errors import UsageError
from dlenv.plan.fit import needs_numpy_1
from dlenv.plan.model import Course

if TYPE_CHECKING:
    from dlenv.catalog.contents import Catalog
    from dlenv.catalog.courses import Recipe, Stack
    from dlenv.plan.model import Edition, Request
    from dlenv.plan.notes import Notes
    from dlenv.plan.pick import Choice


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What is installed beside torch and torchvision."""

    packages: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    course: Course | None = None


def recipe_of(edition: Edition, catalog: Catalog) -> Recipe:
    """The recipe; raises ``UsageError`` where there is no such edition."""
    if edition not in catalog.courses:
        raise UsageError(f"there is no course {edition!r}; there are {', '.join(catalog.courses) or 'none'}")
    return catalog.courses[edition]


def stack_of(edition: Edition, recipe: Recipe, python: str) -> Stack:
    """The packages for this Python; raises ``UsageError`` naming the Pythons that there are packages for."""
    stack = recipe.stack(python)
    if stack is None:
        have = ", ".join(pythons(recipe))
        raise UsageError(
            f"the packages of course {edition} are not known to work on Python {python}; they do on {have} "
            f"(--python {recipe.python} runs the most notebooks, --course none leaves the course out)"
        )
    return stack


def pythons(recipe: Recipe) -> tuple[str, ...]:
    """The Pythons of a course: the one it is planned for, then the newest first."""
    every = {python for stack in recipe.stacks for python in stack.python}
    return (recipe.python, *sorted(every - {recipe.python}, key=Version, reverse=True))


def contents(choice: Choice, request: Request, catalog: Catalog, notes: Notes) -> Contents:
    """The packages for the chosen build and Python."""
    if request.course is None:
        packages = _numpy(choice, (), notes)
        return Contents(packages=packages)
    recipe = recipe_of(request.course, catalog)
    stack = stack_of(request.course, recipe, choice.python)
    notes.because(
        f"{recipe.package} is what the notebooks of {recipe.title} import; the packages beside it are those that "
        f"run them on Python {choice.python}, instead of the ones from 2021 that it asks for."
    )
    announce(recipe, stack, choice.device == "cpu", choice.python, notes)
    return Contents(
        packages=(recipe.package, *_numpy(choice, stack.packages, notes)),
        overrides=stack.overrides,
        course=msgspec.structs.replace(course(request.course, recipe), repacked=stack.repacked),
    )


def course(edition: Edition, recipe: Recipe) -> Course:
    """The course as the plan names it, for a Python that has packages of its own."""
    return Course(edition=edition, package=recipe.package, notebooks=recipe.notebooks[0])


def announce(recipe: Recipe, stack: Stack, on_cpu: bool, python: str, notes: Notes) -> None:
    """Warn about the notebooks that can't run with this stack, or on this machine."""
    for notebook, reason in sorted(stack.cannot_run.items()):
        notes.warn(f"The notebook {notebook} can't run on Python {python}: {reason}.")
    if on_cpu and recipe.needs_gpu:
        notes.warn(f"Without a GPU these notebooks can't run: {', '.join(recipe.needs_gpu)}.")


def _numpy(choice: Choice, packages: tuple[str, ...], notes: Notes) -> tuple[str, ...]:
    """torch declares no numpy: old ones need numpy 1, which has to be said."""
    build = choice.build
    if not needs_numpy_1(build) or any(_name(package) == "numpy" for package in packages):
        return packages
    notes.warn(f"torch {build.torch} was built for numpy 1; numpy 2 and packages that need it can't be used beside it.")
    return (*packages, "numpy<2")


def _name(requirement: str) -> str | None:
    try:
        return Requirement(requirement).name.lower()
    except InvalidRequirement:
        return None
