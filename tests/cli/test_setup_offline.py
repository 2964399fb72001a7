"""A folder for a machine without network: filled from a local index, and installed from where there is no network."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest
from conda_channel import FULL_VERSION, python_files
from http_server import Page, Server, dead_address
from packaging.requirements import Requirement
from relic import RELIC, SDIST, publish
from wheel_index import add

from dlenv import folders
from dlenv.catalog.courses import courses
from dlenv.environment.record import Record, installed
from dlenv.errors import DataError, SetupError, UsageError
from dlenv.machine import Machine, Nvml, inspect
from dlenv.plan import Candidate, Plan, Request
from dlenv.plan.model import Course
from dlenv.setup import download, offline, own, readme, targets
from dlenv.setup.model import Options
from dlenv.setup.offline import Contents

PYTHON = "{}.{}".format(*sys.version_info)
CP = PYTHON.replace(".", "")
TORCH = Candidate(torch="2.15.0", torchvision="0.29.2", build="cpu", index=None)
PLAN = Plan(manager="uv", python=PYTHON, torch=TORCH, packages=("tagged",), reasons=("it is a test",))
TAGS = (
    f"cp{CP}-cp{CP}-manylinux_2_17_x86_64.manylinux2014_x86_64",
    f"cp{CP}-cp{CP}-manylinux_2_28_x86_64",
    f"cp{CP}-cp{CP}-manylinux_2_34_x86_64",
    f"cp{CP}-cp{CP}-manylinux_2_17_aarch64.manylinux2014_aarch64",
    f"cp{CP}-cp{CP}-musllinux_1_2_x86_64",
    f"cp{CP}-cp{CP}-macosx_11_0_arm64",
    f"cp{CP}-cp{CP}-macosx_14_0_arm64",
    f"cp{CP}-cp{CP}-macosx_15_0_arm64",
    f"cp{CP}-cp{CP}-win_amd64",
    "cp39-abi3-win_amd64",
    "py3-none-any",
)


def machine(system: str, arch: str, version: str) -> Machine:
    return Machine(
        os=system,
        os_version=version,
        kernel="6",
        arch=arch,
        libc=("glibc", version) if system == "linux" else None,
        python="3.12.4",
        nvml=Nvml(status="library-missing"),
    )


OLD_LINUX = machine("linux", "x86_64", "2.28")
ARM = machine("linux", "aarch64", "2.35")
MAC = machine("macos", "arm64", "14.5")
WINDOWS = machine("windows", "x86_64", "10.0.22631")


NAME = f"cpython-{FULL_VERSION}+20990101-made-here-install_only_stripped.tar.gz"
ARCHIVE = "/python/20990101/" + NAME.replace("+", "%2B")
SYSTEMS = {"linux": "gnu", "macos": "none", "windows": "none"}


@pytest.fixture(scope="module")
def index() -> Iterator[Server]:
    with Server() as running:
        add(running, "torch", "2.15.0", requires=["tagged>=1"])
        add(running, "torchvision", "0.29.2", requires=["torch==2.15.0"])
        add(running, "tagged", "1.0", *TAGS)
        for line in own.requirements(()):
            name = Requirement(line).name
            add(running, name, version("uv") if name == "uv" else "9999")
        yield running


@pytest.fixture(autouse=True, scope="module")
def known(index: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Only the local server is asked; a checkout's wheel is built by the back end that is installed for development.

    The file is what uv knows of Pythons.
    """
    folder = tmp_path_factory.mktemp("uv")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("UV_FIND_LINKS", "UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
            patch.delenv(name, raising=False)
        patch.setenv("UV_CACHE_DIR", str(folder / "cache"))
        patch.setenv("UV_DEFAULT_INDEX", f"{index.url}/simple")
        patch.setenv("UV_PYTHON_INSTALL_MIRROR", f"{index.url}/python")
        patch.setenv("UV_NO_BUILD_ISOLATION", "1")
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("UV_PYTHON_DOWNLOADS_JSON_URL", (folder / "pythons.json").as_uri())
        release(index, folder / "pythons.json", b"an archive")
        yield folder / "pythons.json"


@pytest.fixture
def server(index: Server) -> Iterator[Server]:
    """The index, which a test may change."""
    pages = dict(index.pages)
    index.requests.clear()
    yield index
    index.pages = pages


@pytest.fixture(scope="module")
def filled(known: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for this machine, as it came from the download."""
    folder = tmp_path_factory.mktemp("filled")
    fill(folder)
    return folder


@pytest.fixture
def folder(filled: Path, tmp_path: Path) -> Path:
    """A copy of it, which a test may change."""
    return shutil.copytree(filled, tmp_path / "folder")


def release(server: Server, known: Path, content: bytes) -> None:
    """Publish one release of Python for each system that is tried here, and make it what uv knows."""
    server.pages[ARCHIVE] = Page(content)
    server.pages["/python/20990101/SHA256SUMS"] = Page(f"{hashlib.sha256(content).hexdigest()}  {NAME}\n".encode())
    major, minor, patch = FULL_VERSION.split(".")
    rows = {
        f"cpython-{FULL_VERSION}-{system}-{arch}-{libc}": {
            "name": "cpython",
            "arch": {"family": arch, "variant": None},
            "os": {"macos": "darwin"}.get(system, system),
            "libc": libc,
            "major": int(major),
            "minor": int(minor),
            "patch": int(patch),
            "prerelease": "",
            "url": ARCHIVE.replace("/python", "https://github.com/astral-sh/python-build-standalone/releases/download"),
            "sha256": hashlib.sha256(content).hexdigest(),
            "variant": None,
            "build": "20990101",
        }
        for system, libc in SYSTEMS.items()
        for arch in ("x86_64", "aarch64")
    }
    known.write_text(json.dumps(rows))


def fill(folder: Path, on: Machine | None = None, plan: Plan = PLAN) -> Contents:
    return download.fill(folder, Options(env=Path("env"), request=Request(course=None)), on or inspect(), plan)


def given(**changes: object) -> dict[str, object]:
    options = ("manager", "python", "course")
    return {**dict.fromkeys(options), "torch": "auto", "build": "auto", "extras": (), **changes}


def asked(server: Server) -> list[str]:
    """The wheels that were asked for since the last call."""
    found = [path for path in server.paths if path.endswith(".whl")]
    server.requests.clear()
    return found


@pytest.mark.parametrize(
    ("on", "tag"),
    [
        (OLD_LINUX, f"cp{CP}-cp{CP}-manylinux_2_28_x86_64"),
        (machine("linux", "x86_64", "2.27"), f"cp{CP}-cp{CP}-manylinux_2_17_x86_64.manylinux2014_x86_64"),
        (machine("linux", "x86_64", "2.41"), f"cp{CP}-cp{CP}-manylinux_2_34_x86_64"),
        (ARM, f"cp{CP}-cp{CP}-manylinux_2_17_aarch64.manylinux2014_aarch64"),
        (MAC, f"cp{CP}-cp{CP}-macosx_14_0_arm64"),
        (machine("macos", "arm64", "12.6.1"), f"cp{CP}-cp{CP}-macosx_11_0_arm64"),
        (machine("macos", "x86_64", "13.0"), "py3-none-any"),
        (WINDOWS, f"cp{CP}-cp{CP}-win_amd64"),
        (machine("windows", "arm64", "10.0.26100"), "py3-none-any"),
    ],
)
def test_the_best_wheel_for_a_machine(on: Machine, tag: str) -> None:
    names = [f"tagged-1.0-{tag}.whl" for tag in TAGS]
    assert targets.target(on, PYTHON).best(names) == f"tagged-1.0-{tag}.whl"


def test_wheels_for_another_python_or_with_odd_names_are_left() -> None:
    target = targets.target(OLD_LINUX, "3.11")
    assert target.best(["a-1.0-cp312-cp312-manylinux_2_17_x86_64.whl", "a-1.0.whl", "a-1.0-py2-none-any.whl"]) is None
    assert target.best(["a-1.0-cp38-abi3-manylinux1_x86_64.whl", "a-1.0-py3-none-any.whl"]) == (
        "a-1.0-cp38-abi3-manylinux1_x86_64.whl"
    )
    assert target.best(["a-1.0-1-py3-none-any.whl", "a-1.0-2-py3-none-any.whl"]) == "a-1.0-2-py3-none-any.whl"


@pytest.mark.parametrize(
    "on", [machine("linux", "riscv64", "2.36"), machine("linux", "x86_64", "2.12"), machine("other", "x86_64", "1")]
)
def test_machines_without_wheels_are_refused(on: Machine) -> None:
    with pytest.raises(UsageError, match="nothing can be downloaded"):
        targets.target(on, PYTHON)


@pytest.mark.parametrize(
    ("there", "runs"),
    [
        (machine("linux", "x86_64", "2.28"), True),
        (machine("linux", "x86_64", "2.39"), True),
        (machine("linux", "x86_64", "2.27"), False),
        (ARM, False),
        (WINDOWS, False),
    ],
)
def test_what_was_chosen_for_one_linux_runs_on_newer_ones(there: Machine, runs: bool) -> None:
    assert targets.mismatch(OLD_LINUX, there) is not runs


def test_what_was_chosen_for_one_macos_runs_on_newer_ones() -> None:
    assert not targets.mismatch(MAC, machine("macos", "arm64", "26.0"))
    assert targets.mismatch(MAC, machine("macos", "arm64", "14.4"))
    assert targets.mismatch(MAC, machine("macos", "x86_64", "14.5"))


@pytest.mark.parametrize(
    ("on", "tag"),
    [
        (OLD_LINUX, "manylinux_2_28_x86_64"),
        (ARM, "manylinux_2_17_aarch64.manylinux2014_aarch64"),
        (MAC, "macosx_14_0_arm64"),
        (WINDOWS, "win_amd64"),
    ],
)
def test_a_folder_for_another_machine(tmp_path: Path, on: Machine, tag: str) -> None:
    contents = fill(tmp_path / "folder", on)
    tagged = [file.path for file in contents.files if "/tagged-" in file.path]
    assert tagged == [f"wheels/tagged-1.0-cp{CP}-cp{CP}-{tag}.whl"]
    assert not contents.problems
    assert contents.record.machine == on
    text = readme.text(contents)
    assert targets.describe(on) in text
    assert ("dlenv-start\\Scripts\\dlenv" in text) is (on is WINDOWS)


def test_what_no_installer_takes_is_in_the_folder_packed_again(tmp_path: Path, server: Server) -> None:
    add(server, "helper", "1.2")
    publish(server, SDIST)
    add(server, "d2l", "1.0.3")
    plan = msgspec.structs.replace(
        PLAN, course=Course(edition="en", package="d2l==1.0.3", notebooks="-", repacked=(RELIC,))
    )
    contents = fill(tmp_path / "folder", plan=plan)
    assert {"relic", "helper"} <= {package.name for package in contents.record.packages}
    assert (tmp_path / "folder/wheels/relic-0.21.0+dlenv-py3-none-any.whl").is_file()
    assert any("notebooks" in problem for problem in contents.problems)
    assert not any("relic" in problem for problem in contents.problems)
    server.pages["/files/relic-0.21.0.tar.gz"].content = b"damaged"
    contents = fill(tmp_path / "folder", plan=plan)
    assert any("relic 0.21.0 could not be had" in problem for problem in contents.problems)
    assert not (tmp_path / "folder/wheels/relic-0.21.0+dlenv-py3-none-any.whl").exists()


def test_a_folder_holds_what_it_says_and_is_not_fetched_twice(folder: Path, server: Server) -> None:
    contents = Contents.read(folder)
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there == {file.path for file in contents.files} | {"README.txt", offline.NAME}
    for file in contents.files:
        assert hashlib.sha256((folder / file.path).read_bytes()).hexdigest() == file.sha256
    names = {package.name for package in contents.record.packages}
    assert names == {"torch", "torchvision", "tagged"}
    wheels = {path.name.partition("-")[0] for path in (folder / "wheels").iterdir()}
    assert wheels >= {"dlenv", "uv", *names}
    assert f"interpreter/20990101/{NAME}" in there
    assert contents.pythons == ("3.10", "3.11", "3.12", "3.13")
    assert fill(folder).files == contents.files
    assert asked(server) == []


def test_an_interrupted_download_goes_on(tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "folder"
    (path,) = [path for path in server.pages if path.startswith("/files/torchvision") and path.endswith(".whl")]
    page = server.pages.pop(path)
    with pytest.raises(SetupError, match=r"torchvision.*HTTP 404.*give the same command again"):
        fill(folder)
    asked(server)
    with pytest.raises(UsageError, match="was not filled to the end"):
        offline.record(folder, given())
    server.pages[path] = page
    fill(folder)
    assert [name for name in asked(server) if "torch" in name] == [path]
    assert offline.record(folder, given()).torch == TORCH


def test_what_an_earlier_plan_needed_goes(folder: Path) -> None:
    (folder / "mine.txt").write_text("precious")
    fill(folder, ARM)
    assert [path.name for path in (folder / "wheels").glob("tagged-*")] == [
        f"tagged-1.0-cp{CP}-cp{CP}-manylinux_2_17_aarch64.manylinux2014_aarch64.whl"
    ]
    assert (folder / "mine.txt").read_text() == "precious"


def test_packages_without_a_fitting_wheel_are_named(tmp_path: Path, server: Server) -> None:
    add(server, "tagged", "1.0", f"cp{CP}-cp{CP}-win_amd64")
    with pytest.raises(SetupError, match="tagged"):
        fill(tmp_path / "folder", OLD_LINUX)


def test_other_managers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the plan is for conda"):
        fill(tmp_path / "folder", plan=msgspec.structs.replace(PLAN, manager="conda"))
    assert not (tmp_path / "folder").exists()


def test_the_command_says_what_is_not_done(run, tmp_path: Path, server: Server, monkeypatch) -> None:
    record = Record(
        dlenv="0.1.0",
        created="2026-11-21T00:00:00+00:00",
        request=Request(course=None),
        machine=inspect(),
        plan=PLAN,
        torch=TORCH,
        packages=(),
    )
    record.write(tmp_path)
    words = ("setup", "--from", tmp_path, "--download", tmp_path / "folder")
    archive = server.pages.pop(ARCHIVE)
    monkeypatch.setenv("ALL_PROXY", dead_address())  # the official places are not asked by a test
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    done = run(*words)
    assert done.code == 1
    assert f"Not done: Python {PYTHON}, which that machine has to have already" in done.stdout
    assert f"Not in here: Python {PYTHON}" in (tmp_path / "folder" / "README.txt").read_text()
    server.pages[ARCHIVE] = archive
    done = run(*words, "--json")
    assert done.code == 0
    assert json.loads(done.stdout)["ok"] is True


@pytest.mark.parametrize("damage", ["bytes", "shorter", "missing"])
def test_a_damaged_folder_is_refused(folder: Path, damage: str) -> None:
    (wheel,) = (folder / "wheels").glob("torchvision-*")
    data = wheel.read_bytes()
    if damage == "missing":
        wheel.unlink()
    else:
        wheel.write_bytes(bytes(len(data)) if damage == "bytes" else data[:-1])
    with pytest.raises(SetupError, match=r"torchvision-0\.29\.2-py3-none-any\.whl (is damaged|can't be read)"):
        offline.sources(folder)


def test_a_damaged_folder_is_mended(folder: Path, server: Server) -> None:
    (wheel,) = (folder / "wheels").glob("torchvision-*")
    wheel.write_bytes(b"damaged")
    fill(folder)
    assert [Path(path).name for path in asked(server)] == [wheel.name]
    offline.sources(folder)


def test_a_damaged_list_of_contents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not filled"):
        Contents.read(tmp_path)
    (tmp_path / offline.NAME).write_text("{}")
    with pytest.raises(UsageError, match="is damaged"):
        Contents.read(tmp_path)


@pytest.mark.parametrize("path", ["../mine.txt", "wheels/../../mine.txt", "/etc/passwd", "C:mine.txt", "..\\mine.txt"])
def test_a_list_of_contents_that_leads_out_of_the_folder_is_refused(folder: Path, path: str) -> None:
    contents = Contents.read(folder)
    other = msgspec.structs.replace(contents.files[0], path=path)
    msgspec.structs.replace(contents, files=(*contents.files, other)).write(folder)
    with pytest.raises(UsageError, match="not in the folder"):
        Contents.read(folder)


def test_the_wrong_machine_is_refused(run, folder: Path, tmp_path: Path) -> None:
    other = WINDOWS if sys.platform == "linux" else OLD_LINUX
    contents = Contents.read(folder)
    changed = msgspec.structs.replace(contents.record, machine=other)
    msgspec.structs.replace(contents, record=changed).write(folder)
    done = run("setup", "--offline", folder, "--env", tmp_path / "env", "--yes")
    assert done.code == 2
    assert targets.describe(other) in done.stderr
    assert targets.describe(inspect()) in done.stderr
    assert not (tmp_path / "env").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [("python", "3.9"), ("torch", "2.6.0"), ("build", "cu126"), ("course", "zh"), ("extras", ("serve",))],
)
def test_what_the_folder_was_not_filled_for_is_refused(filled: Path, option: str, value: object) -> None:
    same = given(python=PYTHON, torch="2.15.0", build="cpu", manager="uv", course="none")
    assert offline.record(filled, same).plan == PLAN
    with pytest.raises(UsageError, match=r"is not what .* was filled for"):
        offline.record(filled, given(**{option: value}))


def test_options_that_contradict_each_other(run, filled: Path) -> None:
    assert run("setup", "--offline", filled, "--download", filled).code == 2
    assert run("setup", "--offline", filled, "--from", filled).code == 2


INSTALL = """
import sys, tempfile
from pathlib import Path
from dlenv.managers import install, python, venv
from dlenv.setup import offline, own, run, sources
from dlenv.setup.model import Options

folder, env = map(Path, sys.argv[1:3])
record = offline.record(folder, dict.fromkeys(("manager", "python", "torch", "build", "course", "extras")))
options = Options(env=env, request=record.request, record=record, offline=folder)
machine, plan = run.planned(options)
found = sources.find(plan, options, machine)
interpreter = venv.create(env, plan.python, "env", found)
with tempfile.TemporaryDirectory() as scratch:
    install.install(interpreter, record.packages, found.packages[0], Path(scratch))
    own.install(interpreter, found.packages[0], Path(scratch))
print(python.get(plan.python, found.python))
"""


def without_network(words: list[object], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command where there is no network: in a namespace of its own, else by proxies that don't answer."""
    unshare = shutil.which("unshare")
    space = [unshare, "-rn"] if unshare else []
    able = bool(space) and subprocess.run([*space, "/bin/true"], capture_output=True, check=False).returncode == 0
    environ = {name: value for name, value in os.environ.items() if not name.startswith("UV_")} | variables
    if not able:
        environ |= dict.fromkeys(("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"), dead_address())
    command = [*(space if able else []), *map(str, words)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def test_an_environment_without_network(filled: Path, tmp_path: Path) -> None:
    env = tmp_path / "env"
    done = without_network([sys.executable, "-c", INSTALL, filled, env])
    assert done.returncode == 0, done.stderr
    there = installed(env)
    assert (there["torch"], there["torchvision"], there["tagged"]) == ("2.15.0", "0.29.2", "1.0")
    assert there["dlenv"] == version("dlenv")


def test_the_interpreter_of_the_folder_is_used_where_there_is_none(
    folder: Path, tmp_path: Path, server: Server, known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a true archive: the Python that runs this test, packed as its publisher packs one."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, source in python_files().items():
            if isinstance(source, Path):
                archive.add(source, f"python/{name}")
            else:
                link = tarfile.TarInfo(f"python/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, source
                archive.addfile(link)
    pythons = tmp_path / "pythons.json"
    release(server, pythons, buffer.getvalue())
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS_JSON_URL", pythons.as_uri())
    fill(folder)
    done = without_network(
        [sys.executable, "-c", INSTALL, folder, tmp_path / "env"],
        PATH=str(tmp_path),
        PYENV_ROOT=str(tmp_path),
        UV_PYTHON_INSTALL_DIR=str(tmp_path / "pythons"),
        UV_PYTHON_DOWNLOADS_JSON_URL=pythons.as_uri(),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "pythons"))
    assert installed(tmp_path / "env")["torch"] == "2.15.0"


def test_the_notebooks_come_from_the_folder(folder: Path, tmp_path: Path) -> None:
    recipe = courses()["zh"]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(recipe.count):
            notebook = {"cells": [], "metadata": {"number": number}, "nbformat": 4, "nbformat_minor": 5}
            archive.writestr(f"pytorch/chapter_made-up/{number}.ipynb", json.dumps(notebook))
    name = recipe.notebooks[0].rpartition("/")[2]
    cached = folders.cache() / "notebooks" / "zh" / name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(buffer.getvalue())
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    known = {"sha256": sha256, "size": len(buffer.getvalue()), "url": recipe.notebooks[0], "date": "2026-11-21"}
    folders.data().mkdir(parents=True)
    (folders.data() / "notebooks.json").write_text(json.dumps({f"zh/{name}": known}))
    course = Course(edition="zh", package=recipe.package, notebooks=recipe.notebooks[0])
    contents = fill(folder, plan=msgspec.structs.replace(PLAN, course=course))
    assert contents.notebooks == f"notebooks/{name}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALL_PROXY", dead_address())
        patch.setenv("NO_PROXY", "127.0.0.1")
        cached.unlink()
        again = fill(folder, plan=msgspec.structs.replace(PLAN, course=course))
    assert again.notebooks == contents.notebooks
    assert not again.problems
    (folders.data() / "notebooks.json").unlink()
    place = tmp_path / "d2l-zh"
    offline.put_notebooks(folder, "zh", place)
    assert len(list(place.rglob("*.ipynb"))) == recipe.count
    edited = place / "chapter_made-up" / "0.ipynb"
    edited.write_text("mine")
    offline.put_notebooks(folder, "zh", place)
    assert edited.read_text() == "mine"
    (folder / contents.notebooks).write_bytes(b"damaged")
    with pytest.raises(DataError, match="is damaged"):
        offline.put_notebooks(folder, "zh", tmp_path / "other")


def test_notebooks_that_are_not_in_the_folder(filled: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="they are not in"):
        offline.put_notebooks(filled, "zh", tmp_path / "d2l-zh")
