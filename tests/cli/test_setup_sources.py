"""Where a plan is taken from: which wheel a mirror must have, and which builds are tried, in which order."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from http_server import Page, Server
from machines import machine

from dlenv.errors import SetupError
from dlenv.managers import venv
from dlenv.managers.source import Source
from dlenv.plan import Candidate, Plan, Request
from dlenv.setup import pipeline, sources
from dlenv.setup.model import Options

PYTHON = "{}.{}".format(*sys.version_info)
TAG = f"cp{PYTHON.replace('.', '')}"
OWN = Candidate(torch="2.15.0", torchvision="0.29.2", build="cu132", index=None)  # the package index's own wheel


def candidate(torch: str, build: str) -> Candidate:
    return Candidate(torch=torch, torchvision="0.29.1", build=build, index=f"https://download.pytorch.org/whl/{build}")


Lay = Callable[..., None]


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        running.pages["/simple/torch/"] = Page(b"torch")
        yield running


@pytest.fixture(autouse=True)
def lay(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Lay:
    """One package index, and these places of PyTorch's wheels: name -> path, or several with ``{build}``."""
    for name in list(os.environ):
        if name.startswith(("UV_", "PIP_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("DLENV_MIRRORS", str(tmp_path / "mirrors.toml"))

    def call(**places: str) -> None:
        rows = [("pypi", "official", "/simple"), ("python", "official", "/python")]
        rows += [("pytorch", name, path) for name, path in places.items()]
        text = "replace = true\n"
        for kind, name, path in rows:
            layout = "flat" if path.endswith(".html") else "index"
            text += f'[[{kind}]]\nname = "{name}"\nurl = "{server.url}{path}"\nlayout = "{layout}"\n'
            text += f"official = {str(name == 'official').lower()}\n"
        (tmp_path / "mirrors.toml").write_text(text)

    call(official="/whl/{build}")
    return call


def files(*wheels: str, system: str = "manylinux_2_28_x86_64") -> Page:
    return Page("\n".join(f'<a href="torch-{wheel}-{TAG}-{TAG}-{system}.whl">' for wheel in wheels).encode())


def found(torch: Candidate, *fallbacks: Candidate, system: str = "linux") -> list[Source]:
    plan = Plan(manager="uv", python=PYTHON, torch=torch, fallbacks=fallbacks)
    given = sources.find(plan, Options(env=Path("env"), request=Request()), machine(system))
    assert given.pypi is not None
    assert given.pypi.name == "official"
    assert all(source.pypi == given.pypi for source in given.packages)
    return list(given.packages)


def builds(tried: list[Source]) -> list[str]:
    return [f"{source.candidate.torch}+{source.candidate.build}" for source in tried]


@pytest.mark.parametrize(
    ("system", "tag"),
    [("linux", "manylinux_2_28_x86_64"), ("linux", "linux_x86_64"), ("windows", "win_amd64")],
)
def test_a_mirror_must_have_the_very_build(server: Server, lay: Lay, system: str, tag: str) -> None:
    lay(all="/all.html", wrong="/wrong.html", official="/whl/{build}")
    server.pages["/all.html"] = files("2.14.1+cpu", "2.14.1+cu126", "2.14.1+cu132", system=tag)
    server.pages["/wrong.html"] = files("2.14.1+cu132", "2.14.10+cu126", "2.14.1", system=tag)
    tried = found(candidate("2.14.1", "cu126"), system=system)
    assert [source.torch_index for source in tried] == [f"{server.url}/all.html", f"{server.url}/whl/cu126"]
    assert [source.local for source in tried] == ["cu126", "cu126"]


def test_wheels_for_arm_may_lack_it(server: Server) -> None:
    server.pages["/whl/cpu/torch/"] = files("2.5.1", system="manylinux2014_aarch64")
    (source,) = found(candidate("2.5.1", "cpu"), system="linux arm")
    assert source.local is None
    server.pages["/whl/cpu/torch/"] = files("2.14.1+cpu", system="manylinux_2_28_aarch64")
    assert builds(found(candidate("2.14.1", "cpu"), OWN, system="linux arm")) == ["2.14.1+cpu", "2.15.0+cu132"]


def test_a_fallback_with_an_index_comes_before_the_package_indexs(server: Server) -> None:
    server.pages["/whl/cpu/torch/"] = files("2.15.0+cpu", "2.14.1+cpu")
    tried = found(candidate("2.15.0", "cpu"), OWN, candidate("2.14.1", "cpu"))
    assert builds(tried) == ["2.15.0+cpu", "2.14.1+cpu", "2.15.0+cu132"]
    assert [source.torch_index for source in tried] == [f"{server.url}/whl/cpu"] * 2 + [None]
    assert [source.local for source in tried] == ["cpu", "cpu", None]


def test_it_takes_the_place_of_a_build_that_is_not_there(server: Server) -> None:
    server.pages["/whl/cpu/torch/"] = files("2.14.1+cpu")
    tried = found(candidate("2.15.0", "cpu"), candidate("2.14.1", "cpu"), OWN)
    assert builds(tried) == ["2.14.1+cpu", "2.15.0+cu132"]


def test_an_index_that_does_not_answer_is_not_tried() -> None:
    tried = found(candidate("2.15.0", "cpu"), candidate("2.14.1", "cpu"), OWN)
    assert builds(tried) == ["2.15.0+cu132"]
    tried = found(candidate("2.15.0", "cpu"), candidate("2.14.1", "cpu"))
    assert builds(tried) == ["2.15.0+cpu"]  # there is nothing else


def test_it_is_said_what_takes_its_place(server: Server) -> None:
    plan = Plan(
        manager="uv",
        python=PYTHON,
        torch=candidate("2.15.0", "cpu"),
        fallbacks=(candidate("2.14.1", "cpu"), OWN),
    )
    options = Options(env=Path("env"), request=Request())
    notes = sources.find(plan, options, machine("linux")).notes
    assert notes[-1] == "So torch 2.15.0 (cu132) comes from the package index"
    assert sum("nothing answers" in note for note in notes) == 1
    server.pages["/whl/cpu/torch/"] = files("2.14.1+cpu")
    notes = sources.find(plan, options, machine("linux")).notes
    assert any("does not list torch-2.15.0+cpu-" in note for note in notes)
    assert notes[-2].startswith(f"PyTorch's wheels: official ({server.url}/whl/cpu), ")
    assert notes[-1] == "So torch 2.14.1 (cpu) comes from PyTorch's wheels, as above"


def test_no_password_is_in_a_label(server: Server, lay: Lay, tmp_path: Path) -> None:
    lay(official="/whl/{build}")
    path = tmp_path / "mirrors.toml"
    path.write_text(path.read_text().replace("//127", "//me:secret@127"))
    server.pages["/whl/cpu/torch/"] = files("2.14.1+cpu")
    (source,) = found(candidate("2.14.1", "cpu"))
    assert source.torch_index is not None
    assert "secret" in source.torch_index
    assert "secret" not in source.label
    assert "***@127.0.0.1" in source.label


def test_the_interpreter_is_for_the_machine(server: Server) -> None:
    plan = Plan(manager="uv", python=PYTHON, torch=OWN)
    for system, platform in (("macos 15.0", "macos-aarch64-none"), ("linux", "linux-x86_64"), ("other", "")):
        given = sources.find(plan, Options(env=Path("env"), request=Request()), machine(system))
        assert given.platform == platform


@pytest.mark.parametrize(("build", "advice"), [("cpu", "--build auto takes one that can be had here"), (None, "")])
def test_where_only_the_build_that_was_asked_for_is_missing_that_is_said(
    tmp_path: Path, server: Server, build: str | None, advice: str
) -> None:
    wanted = Candidate(torch="2.15.0", torchvision="0.29.2", build="cpu", index=f"{server.url}/nothing/cpu")
    plan = Plan(manager="uv", python=PYTHON, torch=wanted)
    options = Options(env=tmp_path / "env", request=Request(course=None, build=build))
    with pytest.raises(SetupError) as caught:
        pipeline.build(options, machine("linux"), plan, venv.create)
    assert str(caught.value).startswith("the packages could not be installed: ")
    assert str(caught.value).endswith(advice)
    assert advice or "--build" not in str(caught.value)
    assert not (tmp_path / "env").exists()
