"""The catalog's own rows: complete, without contradiction, and in step with what else says the same."""

from __future__ import annotations

import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from dlenv import catalog
from dlenv.catalog import tomllib
from dlenv.catalog.cuda import cuda
from dlenv.catalog.torch import Facts, cuda_of, spread

ROOT = Path(__file__).parents[2]


def rows(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files(catalog).joinpath(f"{name}.toml").read_text(encoding="utf-8"))


def build(torch: str, flavour: str, system: str = "linux-x86_64") -> Any:
    (found,) = [b for b in catalog.load().builds if (b.torch, b.build, b.system) == (torch, flavour, system)]
    return found


def test_every_row_says_where_it_is_from() -> None:
    tables = [
        row for name in ("torch", "cuda") for table in rows(name).values() for row in table if isinstance(table, list)
    ]
    assert len(tables) > 40
    for row in tables:
        assert row["source"]
        datetime.date.fromisoformat(row["date"])


def test_what_the_builds_are() -> None:
    assert cuda_of("cu126") == "12.6"
    assert cuda_of("cu118") == "11.8"
    assert [cuda_of(name) for name in ("cpu", "rocm7.2", "mps", "xpu", "cu", "cu1")] == [None] * 6
    assert build("2.15.0", "cu132").sm == ("7.5", "8.0", "8.6", "9.0", "10.0", "12.0")
    assert build("2.15.0", "cu132").on_package_index
    assert build("2.14.1", "cu126").index == "https://download.pytorch.org/whl/cu126"
    assert build("2.10.0", "cpu", "linux-aarch64").on_package_index
    assert build("2.11.0", "cu130", "linux-aarch64").on_package_index
    assert (build("2.6.0", "cu124").glibc, build("2.6.0", "cu126").glibc) == ("2.17", "2.28")
    assert build("2.10.0", "mps", "macos-arm64").macos["3.14"] == "14.0"
    assert build("2.15.0", "cu132").installed_mib == 5191
    assert not build("2.15.0", "cu130").confirmed


def test_the_newest_comes_first_and_every_torch_can_compute_without_a_gpu() -> None:
    builds = catalog.load().builds
    versions = [Version(b.torch) for b in builds]
    assert versions == sorted(versions, reverse=True)
    for torch in {b.torch for b in builds}:
        flavours = {
            b.system: {x.build for x in builds if x.torch == torch and x.system == b.system}
            for b in builds
            if b.torch == torch
        }
        assert {"linux-x86_64", "linux-aarch64", "windows-x86_64", "macos-arm64"} <= set(flavours)
        assert all(names & {"cpu", "mps"} for names in flavours.values())


def test_what_dlenv_asks_for_is_what_pyproject_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own = catalog.load().own
    assert own.python == project["requires-python"]
    for extra in ("train", "serve"):
        (torch,) = [r for r in map(Requirement, project["optional-dependencies"][extra]) if r.name == "torch"]
        assert str(torch.specifier) == own.torch
    assert own.takes_python("3.11")
    assert not own.takes_python("3.14")


def test_every_python_of_a_course_has_a_torch_that_takes_its_numpy() -> None:
    """torch before 2.4.1 (Windows; 2.3 elsewhere) was built for numpy 1, and declares nothing."""
    facts = catalog.load()
    for recipe in facts.courses.values():
        for stack in recipe.stacks:
            (numpy,) = [r for r in map(Requirement, stack.packages) if r.name == "numpy"]
            for python in stack.python:
                versions = [b.torch for b in facts.builds if python in b.python]
                assert versions
                assert numpy.specifier.contains("1.26.4") or min(map(Version, versions)) >= Version("2.4.1")


@pytest.mark.parametrize(
    ("driver", "system", "supports"),
    [
        ("550.54.14", "linux", "12.4"),
        ("550.54.13", "linux", "12.3"),
        ("580.65.06", "linux", "13.0"),
        ("591.44", "windows", "13.0"),
        ("551.61", "windows", "12.4"),
        ("470.256.02", "linux", "11.1"),
        ("440.33", "linux", None),
        ("unknown", "linux", None),
    ],
)
def test_the_cuda_version_of_a_driver(driver: str, system: Any, supports: str | None) -> None:
    assert cuda().full_support(driver, system) == supports


def test_the_oldest_driver() -> None:
    assert cuda().floor("12.6", "linux") == "525.60.13"
    assert cuda().floor("12.8", "windows", "8.9") == "527.41"
    assert cuda().floor("12.8", "windows", "12.0") == "570"
    assert cuda().floor("13.0", "linux", "12.0") == "580"


def damaged(change: Any) -> dict[str, Any]:
    data = rows("torch")
    change(data)
    return data


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d["release"].append(d["release"][0]), "torch 2.15.0 is listed twice"),
        (lambda d: d["code"].pop(0), "0 rows say which GPUs"),
        (lambda d: d["code"].append(d["code"][0]), "2 rows say which GPUs"),
        (lambda d: d["rocm"].pop(0), "0 rows say which GPUs rocm7.2"),
        (lambda d: d["code"][0].update(until="1.0"), "1.13.0 is after until 1.0|0 rows"),
        (lambda d: d["size"][0].update(build="cu999"), "2.15.0.cu999 on linux-x86_64, which does not exist"),
        (lambda d: d["release"][0].update(unconfirmed=["cu999"]), "cu999 is unconfirmed"),
        (lambda d: d["release"][0].update(newer_glibc={"cu999": "2.40"}), "neither a build, a system nor a Python"),
    ],
)
def test_a_contradiction_is_an_error(change: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        spread(msgspec.convert(damaged(change), Facts))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(releases=[]), "unknown field `releases`"),
        (lambda d: d["release"][0].update(pythons=[]), "unknown field `pythons`"),
        (lambda d: d["release"][0].pop("source"), "missing required field `source`"),
        (lambda d: d["release"][0]["builds"].update(cpu=["linux-sparc"]), "linux-sparc"),
    ],
)
def test_a_field_that_is_wrong_is_an_error(change: Any, says: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        msgspec.convert(damaged(change), Facts)
