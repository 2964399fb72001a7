"""The course's packages: the catalog's rules, and the course's notebooks run in a real environment.

The notebooks are not part of this project. To run them, name a folder with ``zh`` or ``en`` or both in it, each with
the chapters of that edition, and an environment of that edition; without one, it is built here::

    DLENV_TEST_NOTEBOOKS=notebooks DLENV_TEST_ENV=.venv pytest tests/cli/test_courses.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dlenv.catalog.courses import Stack, courses
from dlenv.environment.layout import executable
from dlenv.notebooks import run
from dlenv.plan.model import Edition

# What d2l 0.17.6 and 1.0.3 pin (metadata on PyPI), so what keeps them from being installed today.
PINNED_BY_D2L = {
    "zh": {"jupyter", "numpy", "matplotlib", "requests", "pandas"},
    "en": {"jupyter", "numpy", "matplotlib", "matplotlib-inline", "requests", "pandas", "scipy"},
}
EXACT = {"numpy", "pandas", "matplotlib", "matplotlib-inline", "scipy"}
EDITIONS = sorted(courses())
STACKS = [
    pytest.param(edition, stack, id=f"{edition}-{'+'.join(stack.python)}")
    for edition in EDITIONS
    for stack in courses()[edition].stacks
]


def by_name(lines: tuple[str, ...]) -> dict[str, Requirement]:
    found = {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}
    assert len(found) == len(lines)
    return found


@pytest.mark.parametrize("edition", EDITIONS)
def test_every_python_has_one_stack(edition: Edition) -> None:
    recipe = courses()[edition]
    pythons = Counter(python for stack in recipe.stacks for python in stack.python)
    assert pythons == Counter(["3.10", "3.11", "3.12", "3.13"])
    assert recipe.stack("3.9") is None
    planned = recipe.stack(recipe.python)
    assert planned is not None


@pytest.mark.parametrize(("edition", "stack"), STACKS)
def test_overrides_are_what_d2l_pins_and_nothing_else(edition: Edition, stack: Stack) -> None:
    packages, overrides = by_name(stack.packages), by_name(stack.overrides)
    assert set(overrides) == PINNED_BY_D2L[edition]
    # An override replaces what is asked for, too: both must say the same.
    assert overrides.items() <= packages.items()


@pytest.mark.parametrize(("edition", "stack"), STACKS)
def test_what_users_get_is_what_was_proven(edition: Edition, stack: Stack) -> None:
    for name, requirement in by_name(stack.packages).items():
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators == {"=="} if name in EXACT else operators in ({"=="}, {">=", "<"}), name


@pytest.mark.parametrize("edition", EDITIONS)
def test_planned_stack_runs_what_the_course_needs(edition: Edition) -> None:
    stack = courses()[edition].stack(courses()[edition].python)
    assert stack is not None
    packages = by_name(stack.packages)
    assert packages["pandas"].specifier.contains("1.5.3")
    assert not packages["pandas"].specifier.contains("2.0.0")
    assert not packages["matplotlib"].specifier.contains("3.8.0")
    assert not packages["numpy"].specifier.contains("2.0.0")
    assert "chapter_preliminaries/pandas" not in {*stack.cannot_run, *courses()[edition].needs_network}


@pytest.mark.parametrize("edition", EDITIONS)
def test_notebooks_that_need_something_are_named_as_run_names_them(edition: Edition) -> None:
    recipe = courses()[edition]
    names = [*recipe.needs_network, *recipe.needs_gpu, *(name for stack in recipe.stacks for name in stack.cannot_run)]
    assert names
    assert [name for name in names if not name.startswith("chapter_") or name.endswith(".ipynb")] == []
    assert list(recipe.needs_network) == sorted(set(recipe.needs_network))
    assert list(recipe.needs_gpu) == sorted(set(recipe.needs_gpu))


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("edition", EDITIONS)
def test_notebooks_run(edition: Edition, tmp_path: Path) -> None:
    named = os.environ.get("DLENV_TEST_NOTEBOOKS")
    if not named:
        pytest.skip(
            "the course's notebooks are not part of this project: DLENV_TEST_NOTEBOOKS=DIR, where DIR/zh and DIR/en "
            "hold the chapters, runs them, in the environment DLENV_TEST_ENV if that is set"
        )
    root = Path(named) / edition
    if not root.is_dir():
        pytest.skip(f"{root} is missing: the {edition} edition is not run")
    env = Path(os.environ["DLENV_TEST_ENV"]) if "DLENV_TEST_ENV" in os.environ else built(edition, tmp_path)
    recipe = courses()[edition]
    if d2l(env) != recipe.package:
        pytest.skip(f"{env} has {d2l(env) or 'no d2l'} and not {recipe.package}: the {edition} edition is not run")
    stack = recipe.stack(python(env))
    assert stack is not None
    found = run.find(root)
    assert len([path for path in found.values() if path.stat().st_size]) >= recipe.count
    left_out = {*recipe.needs_network, *recipe.needs_gpu, *stack.cannot_run}
    assert left_out <= found.keys()
    chosen = {name: path for name, path in found.items() if name not in left_out and path.stat().st_size}
    outcomes = list(run.run(env, root, chosen, limit=1800))
    assert [(outcome.notebook, outcome.kind, outcome.why) for outcome in outcomes if outcome.kind != "ran"] == []
    assert len(outcomes) == len(chosen)


def built(edition: Edition, folder: Path) -> Path:
    words = ["setup", "--env", "env", "--course", edition, "--yes"]
    # The exit code also tells that the notebooks could not be fetched, which is not what this is about.
    subprocess.run([sys.executable, "-m", "dlenv", *words], cwd=folder, check=False)
    return folder / "env"


def python(env: Path) -> str:
    command = [str(executable(env)), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def d2l(env: Path) -> str | None:
    command = [str(executable(env)), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    folder = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    found = [dist.version for dist in distributions(path=[folder], name="d2l")]
    return f"d2l=={found[0]}" if found else None
