"""``environment.yml``, the catalog and ``pyproject.toml`` say the same; where one changes alone, this fails.

conda can't be had here. What pip makes of the list was tried by hand on Python 3.11 with pip 26.3: it resolves, and
with d2l added afterwards the environment passes the proof of ``dlenv setup``; with d2l in the list it does not resolve.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from dlenv import catalog
from dlenv.catalog.contents import Catalog
from dlenv.managers import conda

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
ENVIRONMENT = (ROOT / "environment.yml").read_text(encoding="utf-8")
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def disagreements(environment: str, project: dict[str, Any], known: Catalog) -> list[str]:
    """Every point in which the three differ."""
    content = yaml.safe_load(environment)
    python, pip, through_pip = content["dependencies"]
    own, *lines = through_pip["pip"]
    version = python.removeprefix("python=")
    extras = re.fullmatch(r"-e \.\[([a-z,]+)\]", own)[1].split(",")  # type: ignore[index]
    optional = project["project"]["optional-dependencies"]
    found = []

    def same(what: str, here: object, there: object) -> None:
        if here != there:
            found.append(f"{what}: {here}, not {there}")

    same("name", content["name"], project["project"]["name"])
    same("pip", pip, "pip")
    recipe = known.courses["zh"]
    stack = recipe.stack(version)
    same("Python", version, recipe.python)
    same("stack", lines[2:], list(stack.packages) if stack else None)
    same("package", re.findall("install --no-deps (.*)", environment), [recipe.package])
    if any(Requirement(line).name == "d2l" for line in lines):
        found.append("d2l is in the list, with the packages that it asks for")
    newest = next(build for build in known.builds if build.on_package_index and version in build.python)
    same("PyTorch", lines[:2], [f"torch=={newest.torch}", f"torchvision=={newest.torchvision}"])
    if Version(version) not in SpecifierSet(project["project"]["requires-python"]):
        found.append(f"dlenv does not take Python {version}")
    same("extras", extras, [extra for extra in extras if extra in optional])
    pins = {Requirement(line).name: next(iter(Requirement(line).specifier)) for line in lines if "==" in line}
    for line in (line for extra in extras for line in optional.get(extra, [])):
        requirement = Requirement(line)
        if (pin := pins.get(requirement.name)) and pin.version not in requirement.specifier:
            found.append(f"dlenv needs {requirement}, and the list has {pin.version}")
    return found


def test_the_three_say_the_same() -> None:
    assert disagreements(ENVIRONMENT, tomllib.loads(PROJECT), catalog.load()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("python=3.11", "python=3.12"),
        ("numpy==1.26.4", "numpy==1.26.3"),
        ("torch==2.15.0", "torch==2.14.1"),
        ("torchvision==0.29.2", "torchvision==0.29.1"),
        ("nbformat>=5.10,<6", "nbformat>=5.10,<7"),
        ("      - scipy==1.15.3\n", ""),
        (".[serve]", ".[serving]"),
        ("install --no-deps d2l==0.17.6", "install --no-deps d2l==0.17.5"),
        ("      - nbformat>=5.10,<6\n", "      - nbformat>=5.10,<6\n      - d2l==0.17.6\n"),
        ("name: dlenv", "name: d2l"),
    ],
)
def test_the_environment_changes_alone(old: str, new: str) -> None:
    assert old in ENVIRONMENT
    changed = ENVIRONMENT.replace(old, new)
    assert disagreements(changed, tomllib.loads(PROJECT), catalog.load()) != []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('requires-python = ">=3.10,<3.14"', 'requires-python = ">=3.12,<3.14"'),
        ("\nserve = [", "\nserving = ["),
        ('"numpy>=1.26"', '"numpy>=2"'),
        ('"torch>=2.6"', '"torch>=2.16"'),
        ('name = "dlenv"', 'name = "dlenv2"'),
    ],
)
def test_the_project_changes_alone(old: str, new: str) -> None:
    assert old in PROJECT
    assert disagreements(ENVIRONMENT, tomllib.loads(PROJECT.replace(old, new)), catalog.load()) != []


@pytest.mark.parametrize("change", ["python", "package", "stack", "torch"])
def test_the_catalog_changes_alone(change: str) -> None:
    known = catalog.load()
    recipe = known.courses["zh"]
    replace = msgspec.structs.replace
    if change == "torch":
        newer = replace(known.builds[0], torch="99.0", on_package_index=True, python=("3.11",))
        known = replace(known, builds=(newer, *known.builds))
    else:
        stacks = tuple(replace(stack, packages=("numpy==1.26.5", *stack.packages[1:])) for stack in recipe.stacks)
        changed = {
            "python": replace(recipe, python="3.12"),
            "package": replace(recipe, package="d2l==9.9"),
            "stack": replace(recipe, stacks=stacks),
        }[change]
        known = replace(known, courses={**known.courses, "zh": changed})
    assert disagreements(ENVIRONMENT, tomllib.loads(PROJECT), known) != []


def test_the_same_python_as_the_conda_manager(tmp_path: Path) -> None:
    words = conda.command(Path("conda"), tmp_path, ["python=3.11", "pip"], "conda-forge")
    assert words[-2:] == yaml.safe_load(ENVIRONMENT)["dependencies"][:2]
