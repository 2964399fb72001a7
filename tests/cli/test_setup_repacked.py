"""Packages that no installer takes: packed again from the source distribution that the index has."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from http_server import Server
from relic import RELIC, SDIST, publish, sdist
from wheel_index import add

from dlenv.errors import ArchiveRefused, DataError
from dlenv.managers import install, uv, venv
from dlenv.managers.source import Source, Sources
from dlenv.plan import Candidate, Course, Plan
from dlenv.setup import repacked

PYTHON = "{}.{}".format(*sys.version_info)
TORCH = Candidate(torch="2.15.0", torchvision="0.29.2", build="cu132", index="-")
PLAN = Plan(
    manager="uv",
    python=PYTHON,
    torch=TORCH,
    course=Course(edition="en", package="d2l==1.0.3", notebooks="-", repacked=(RELIC,)),
)


@pytest.fixture
def index() -> Iterator[Server]:
    with Server() as server:
        add(server, "torch", "2.15.0")
        add(server, "torchvision", "0.29.2", requires=["torch"])
        add(server, "helper", "1.2")
        publish(server, SDIST)
        yield server


@pytest.fixture
def source(index: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    for name in ("UV_FIND_LINKS", "UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    environment = {"UV_CACHE_DIR": str(tmp_path / "cache"), "UV_HTTP_RETRIES": "0"}
    return Source(candidate=TORCH, environment={**environment, "UV_DEFAULT_INDEX": index.url + "/simple"})


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def test_it_is_installed_with_all_that_it_needs(source: Source, scratch: Path, tmp_path: Path) -> None:
    python = venv.create(tmp_path / "env", PYTHON, "env", Sources(packages=()))
    packed = repacked.wheels(PLAN, source, scratch)
    assert packed.requirements == ("relic==0.21.0+dlenv",)
    assert not packed.problems
    lock = install.lock(
        ["--python", python], PLAN, source, scratch, requirements=packed.requirements, wheels=packed.folder
    )
    assert {package.name for package in lock.packages} == {"torch", "torchvision", "relic", "helper"}
    install.install(python, lock.packages, source, scratch, wheels=packed.folder)
    code = (
        "import relic, pathlib; print(relic.ANSWER, (pathlib.Path(relic.__file__).parent/'assets/map.txt').read_text())"
    )
    assert subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split() == [
        "42",
        "SFFF",
    ]
    uv.run(["pip", "check", "--python", python])
    site = next((tmp_path / "env").rglob("relic-0.21.0+dlenv.dist-info"))
    assert (site / "LICENSE.md").read_text() == "as you like"
    assert not (site.parent / "tests").exists()


def test_the_same_bytes_wherever_it_is_packed(source: Source, scratch: Path, tmp_path: Path) -> None:
    one = repacked.wheels(PLAN, source, scratch)
    (tmp_path / "s").write_bytes(SDIST)
    other = repacked.pack(RELIC, tmp_path / "s", tmp_path / "other")
    assert one.folder is not None
    assert (one.folder / other.name).read_bytes() == other.read_bytes()
    # Bound, since the record of an environment that was built elsewhere names it.
    assert hashlib.sha256(other.read_bytes()).hexdigest() == (
        "19deef110d32fe2a2e5ed366a7a4f39f1869b2bbc8c4d28544eb053f2820cf84"
    )


@pytest.mark.parametrize("trouble", ["absent", "other bytes", "gone"])
def test_what_can_not_be_had_is_said_and_left_out(
    index: Server, source: Source, scratch: Path, capsys: pytest.CaptureFixture[str], trouble: str
) -> None:
    if trouble == "absent":
        del index.pages["/simple/relic/"]
    elif trouble == "gone":
        del index.pages["/files/relic-0.21.0.tar.gz"]
    else:
        publish(index, sdist(("relic-0.21.0/relic/more.py", "import os")))
    packed = repacked.wheels(PLAN, source, scratch)
    assert packed == repacked.Wheels(problems=packed.problems)
    assert "relic 0.21.0 could not be had, which two notebooks import: " in packed.problems[0]
    assert packed.problems[0] in capsys.readouterr().err


def test_nothing_leaves_its_folder(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(sdist(("relic-0.21.0/../../outside.py", "x = 1")))
    with pytest.raises(ArchiveRefused, match="outside"):
        repacked.pack(RELIC, tmp_path / "s", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_distribution_without_the_package(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(SDIST)
    with pytest.raises(DataError, match="no folder other"):
        repacked.pack(msgspec.structs.replace(RELIC, name="other"), tmp_path / "s", tmp_path / "out")
