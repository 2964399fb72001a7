"""``dlenv catalog``: against a server that has exactly the catalog's wheels, and against others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from http_server import Page, Server, dead_address

from dlenv import catalog
from dlenv.catalog.check import check, sources
from dlenv.catalog.torch import Build

Run = Callable[..., Any]
PLATFORM = {
    "linux-x86_64": "manylinux_2_28_x86_64",
    "linux-aarch64": "manylinux_2_28_aarch64",
    "windows-x86_64": "win_amd64",
    "macos-arm64": "macosx_14_0_arm64",
    "macos-x86_64": "macosx_10_13_x86_64",
}


def names(project: str, builds: list[Build], local: bool) -> set[str]:
    """The files of these builds."""
    found = set()
    for build in builds:
        version = build.torch if project == "torch" else build.torchvision
        version += f"%2B{build.build}" if local else ""
        for python in build.python:
            cp = f"cp{python.replace('.', '')}"
            found.add(f"{project}-{version}-{cp}-{cp}-{PLATFORM[build.system]}.whl")
    return found


def page(files: set[str]) -> Page:
    return Page("".join(f'<a href="{name}">{name}</a>\n' for name in sorted(files)).encode())


def of_package_index(project: str) -> set[str]:
    return names(project, [build for build in catalog.load().builds if build.on_package_index], local=False)


def of_build(project: str, build: str) -> set[str]:
    return names(project, [b for b in catalog.load().builds if b.build == build and b.index], local=True)


@pytest.fixture
def server() -> Iterator[Server]:
    """A package index at /simple and a wheel index at /whl/cu128, as the catalog describes them."""
    pages = {}
    for project in ("torch", "torchvision"):
        pages[f"/simple/{project}/"] = page(of_package_index(project))
        pages[f"/whl/cu128/{project}/"] = page(of_build(project, "cu128"))
    with Server(pages) as running:
        yield running


@pytest.mark.parametrize("path", ["/simple", "/whl/cu128", "/whl/cu128/"])
def test_an_index_that_agrees(server: Server, run: Run, path: str) -> None:
    result = run("catalog", "check", "--index", server.url + path)
    assert (result.code, result.stdout) == (0, "")
    assert "agrees with the catalog" in result.stderr


def test_other_flavours_and_files_on_the_page_do_not_matter(server: Server, run: Run) -> None:
    others = {"torch-2.15.0%2Bcu134-cp311-cp311-win_amd64.whl", "torch-2.11.0%2Bcu128-cp314-cp314t-win_amd64.whl"}
    others |= {"torch-2.11.0.tar.gz", "torch-1.12.0%2Bcu128-cp310-cp310-win_amd64.whl"}
    server.pages["/whl/cu128/torch/"] = page(of_build("torch", "cu128") | others)
    assert run("catalog", "check", "--index", f"{server.url}/whl/cu128").code == 0


def test_a_new_release(server: Server, run: Run) -> None:
    new = {"torch-2.16.0-cp311-cp311-manylinux_2_28_x86_64.whl", "torch-2.17.0rc1-cp311-cp311-win_amd64.whl"}
    server.pages["/simple/torch/"] = page(of_package_index("torch") | new)
    result = run("catalog", "check", "--index", f"{server.url}/simple", "--json")
    assert result.code == 1
    data = json.loads(result.stdout)
    assert data["ok"] is False
    (finding,) = data["indexes"][0]["findings"]
    assert (finding["kind"], finding["torch"], finding["system"]) == ("unknown-version", "2.16.0", "linux-x86_64")


@pytest.mark.parametrize("project", ["torch", "torchvision"])
def test_a_wheel_that_is_gone(server: Server, run: Run, project: str) -> None:
    version = {"torch": "2.11.0", "torchvision": "0.26.0"}[project]
    left = {name for name in of_build(project, "cu128") if f"-{version}%" not in name or "win" not in name}
    server.pages[f"/whl/cu128/{project}/"] = page(left)
    result = run("catalog", "check", "--index", f"{server.url}/whl/cu128")
    assert result.code == 1
    assert f"the index has no {project} {version} for windows-x86_64" in result.stdout
    assert len(result.stdout.splitlines()) == 2


def test_pythons_that_differ(server: Server, run: Run) -> None:
    files = {name for name in of_package_index("torch") if "torch-2.14.1-cp310" not in name or "win" not in name}
    server.pages["/simple/torch/"] = page(files | {"torch-2.14.0-cp315-cp315-win_amd64.whl"})
    server.pages["/simple/torchvision/"] = page(
        of_package_index("torchvision") | {"torchvision-0.29.0-py3-none-win_amd64.whl"}
    )
    result = run("catalog", "check", "--index", f"{server.url}/simple")
    assert result.code == 1
    assert "torch 2.14.1 for windows-x86_64: Python 3.10 of the catalog is not there" in result.stdout
    assert "torch 2.14.0 for windows-x86_64: Python 3.15 is there and not in the catalog" in result.stdout
    assert len(result.stdout.splitlines()) == 3


def test_a_build_that_was_only_announced_is_there(server: Server) -> None:
    facts = catalog.load()
    doubtful = tuple(
        msgspec.structs.replace(build, confirmed=False) if build.label == "2.11.0+cu128" else build
        for build in facts.builds
    )
    asked = sources(facts, f"{server.url}/whl/cu128")
    (verdict,) = check(msgspec.structs.replace(facts, builds=doubtful), asked)
    assert {finding.kind for finding in verdict.findings} == {"confirmed"}
    assert len(verdict.findings) == 3


def test_every_index_is_asked_although_some_do_not_answer(server: Server, run: Run) -> None:
    result = run("catalog", "check", "--index", f"{server.url}/whl/{{build}}")
    assert result.code == 1
    assert f"{server.url}/whl/cu128 agrees with the catalog" in result.stderr
    assert f"{server.url}/whl/cu130 has no wheels of torch" in result.stderr
    dead = run("catalog", "check", "--index", f"{dead_address()}/simple", "--json")
    assert dead.code == 1
    assert "can't be reached" in json.loads(dead.stdout)["indexes"][0]["error"]


def test_by_default_every_index_is_asked() -> None:
    facts = catalog.load()
    urls = [source.url for source in sources(facts)]
    assert urls[0] == catalog.PACKAGE_INDEX
    assert {"https://download.pytorch.org/whl/cpu", "https://download.pytorch.org/whl/cu132"} < set(urls)
    assert len(urls) == len(set(urls)) == 1 + len({build.build for build in facts.builds if build.index})


def test_show(run: Run) -> None:
    result = run("catalog", "show")
    assert result.code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split("\t") == ["torch", "torchvision", "build", "system", "python", "GPUs", "from"]
    assert len(lines) == 1 + len(catalog.load().builds)
    assert "2.15.0\t0.29.2\tcu132\tlinux-x86_64\t3.11-3.15\t7.5 8.0 8.6 9.0 10.0 12.0\tpackage index" in lines
    rows = json.loads(run("catalog", "show", "--json").stdout)
    assert rows[0]["torch"] == "2.15.0"
    assert all(row["source"] and row["date"] for row in rows)
