"""Where each package comes from: PyTorch from its own index and nothing else, the rest from the package index."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from http_server import Page, Server
from wheel_index import add, wheel

from dlenv.environment.record import Package, installed
from dlenv.errors import SetupError
from dlenv.managers import install, uv, venv
from dlenv.managers.python import find as find_python
from dlenv.managers.python import get as get_python
from dlenv.managers.source import Source, Sources
from dlenv.plan import Candidate, Plan

PYTHON = "{}.{}".format(*sys.version_info)
TORCH = Candidate(torch="2.14.1", torchvision="0.29.1", build="cu126", index="-")
PLAN = Plan(
    manager="uv",
    python=PYTHON,
    torch=TORCH,
    packages=("d2l==0.17.6", "numpy==1.26.4"),
    overrides=("numpy==1.26.4",),
)


@pytest.fixture
def packages() -> Iterator[Server]:
    """The package index: its own torch, and a course package that pins what can't be had."""
    with Server() as server:
        add(server, "torch", "2.14.1", requires=["sympy"])
        add(server, "torchvision", "0.29.1", requires=["torch"])
        add(server, "sympy", "1.14.0")
        add(server, "numpy", "1.26.4")
        add(server, "d2l", "0.17.6", requires=["numpy==1.21.5"])
        yield server


@pytest.fixture
def pytorch() -> Iterator[Server]:
    """PyTorch's index, which also has a sympy that nobody wants."""
    with Server() as server:
        add(server, "torch", "2.14.1+cu126", requires=["sympy"])
        add(server, "torchvision", "0.29.1+cu126", requires=["torch"])
        add(server, "sympy", "1.99")
        yield server


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "env"
    return venv.create(path, PYTHON, "env", Sources(packages=()))


@pytest.fixture
def python(tmp_path: Path) -> Path:
    return venv.create(tmp_path / "env", PYTHON, "env", Sources(packages=()))


@pytest.fixture
def cache(tmp_path: Path) -> dict[str, str]:
    return {"UV_CACHE_DIR": str(tmp_path / "cache"), "UV_HTTP_RETRIES": "0"}


def source(packages: Server, cache: dict[str, str], **more: object) -> Source:
    environment = {**cache, "UV_DEFAULT_INDEX": packages.url + "/simple"}
    return msgspec.structs.replace(Source(candidate=TORCH, environment=environment), **more)


def versions(lock: install.Lock) -> dict[str, str]:
    return {package.name: package.version for package in lock.packages}


def locked(base: Path, where: Source, folder: Path, plan: Plan = PLAN, **more: list[str]) -> install.Lock:
    folder.mkdir(exist_ok=True)
    return install.lock(["--python", base], plan, where, folder, **more)


def test_only_pytorch_comes_from_its_index(
    base: Path, packages: Server, pytorch: Server, cache: dict[str, str], tmp_path: Path
) -> None:
    lock = locked(base, source(packages, cache, torch_index=pytorch.url + "/simple"), tmp_path / "x")
    assert versions(lock) == {
        "d2l": "0.17.6",
        "numpy": "1.26.4",
        "sympy": "1.14.0",
        "torch": "2.14.1+cu126",
        "torchvision": "0.29.1+cu126",
    }
    assert all(package.hashes for package in lock.packages)


def test_a_flat_listing_of_wheels_does_as_well(
    base: Path, packages: Server, pytorch: Server, cache: dict[str, str], tmp_path: Path
) -> None:
    links = []
    for name, version in (("torch", "2.14.1+cu126"), ("torchvision", "0.29.1+cu126")):
        file, content, _ = wheel(name, version, "py3-none-any")
        pytorch.pages[f"/whl/{file}"] = Page(content)
        links.append(f'<a href="{file}">{file}</a>')
    pytorch.pages["/whl/"] = Page("\n".join(links).encode(), etag=None, headers={"Content-Type": "text/html"})
    lock = locked(base, source(packages, cache, torch_index=pytorch.url + "/whl/", flat=True), tmp_path / "x")
    assert versions(lock)["torch"] == "2.14.1+cu126"
    assert versions(lock)["numpy"] == "1.26.4"


@pytest.fixture
def listing(pytorch: Server) -> Server:
    """One listing of the wheels of every build."""
    links = []
    for build in ("cpu", "cu126", "cu130", "cu132"):
        for name, version in (("torch", "2.14.1"), ("torchvision", "0.29.1")):
            file, content, _ = wheel(name, f"{version}+{build}", "py3-none-any")
            pytorch.pages[f"/whl/{file}"] = Page(content)
            links.append(f'<a href="{file}">{file}</a>')
    pytorch.pages["/whl/"] = Page("\n".join(links).encode(), etag=None, headers={"Content-Type": "text/html"})
    return pytorch


@pytest.mark.parametrize("build", ["cpu", "cu126", "cu132"])
def test_of_many_builds_the_planned_one_is_taken(
    base: Path, packages: Server, listing: Server, cache: dict[str, str], tmp_path: Path, build: str
) -> None:
    candidate = msgspec.structs.replace(TORCH, build=build)
    flat = source(packages, cache, candidate=candidate, torch_index=listing.url + "/whl/", flat=True, local=build)
    found = versions(locked(base, flat, tmp_path / "x"))
    assert (found["torch"], found["torchvision"]) == (f"2.14.1+{build}", f"0.29.1+{build}")


def test_another_build_is_refused(
    base: Path, packages: Server, listing: Server, cache: dict[str, str], tmp_path: Path
) -> None:
    """Where nobody knows whether the wheels carry their build, what was found tells."""
    flat = source(packages, cache, torch_index=listing.url + "/whl/", flat=True)
    with pytest.raises(uv.Failed, match=r"torch 2\.14\.1\+cu132 is no build for cu126"):
        locked(base, flat, tmp_path / "x")
    good = msgspec.structs.replace(flat, candidate=msgspec.structs.replace(TORCH, build="cu132"))
    assert versions(locked(base, good, tmp_path / "x"))["torch"] == "2.14.1+cu132"


def test_without_an_index_the_package_indexs_own_is_taken(
    base: Path, packages: Server, cache: dict[str, str], tmp_path: Path
) -> None:
    assert versions(locked(base, source(packages, cache), tmp_path / "x"))["torch"] == "2.14.1"


def test_the_users_project_does_not_count(
    base: Path, packages: Server, cache: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "1"\n[tool.uv]\noverride-dependencies = ["sympy==0.1"]\n'
    )
    monkeypatch.chdir(project)
    monkeypatch.setenv("UV_TORCH_BACKEND", "cu80")
    monkeypatch.setenv("UV_CONSTRAINT", "nowhere.txt")
    assert versions(locked(base, source(packages, cache), tmp_path / "x"))["sympy"] == "1.14.0"


def test_constraints_bind_what_is_needed_anyway(
    base: Path, packages: Server, cache: dict[str, str], tmp_path: Path
) -> None:
    add(packages, "rich", "1.0")
    add(packages, "sympy", "1.14.0")
    lock = locked(
        base, source(packages, cache), tmp_path / "x", requirements=["rich"], constraints=["rich==1.0", "click==1.0"]
    )
    assert versions(lock)["rich"] == "1.0"
    assert "click" not in versions(lock)


@pytest.mark.parametrize("compiled", [False, True])
def test_what_was_locked_is_installed(
    python: Path, packages: Server, pytorch: Server, cache: dict[str, str], tmp_path: Path, compiled: bool
) -> None:
    where = source(packages, cache, torch_index=pytorch.url + "/simple")
    lock = locked(python, where, tmp_path / "x")
    install.install(python, lock.packages, where, tmp_path / "x", compiled=compiled)
    assert installed(tmp_path / "env") == versions(lock)
    (torch,) = (tmp_path / "env").rglob("site-packages/torch.py")
    assert len([*torch.parent.glob("__pycache__/torch.*.pyc")]) == compiled


def test_a_file_that_was_exchanged_is_refused(
    python: Path, packages: Server, pytorch: Server, cache: dict[str, str], tmp_path: Path
) -> None:
    where = source(packages, cache, torch_index=pytorch.url + "/simple")
    lock = locked(python, where, tmp_path / "x")
    file, _, _ = wheel("numpy", "1.26.4", "py3-none-any")
    _, evil, _ = wheel("numpy", "1.26.4", "py3-none-any", requires=["evil"])
    packages.pages[f"/files/{file}"] = Page(evil)
    with pytest.raises(uv.Failed, match=r"(?i)hash mismatch.*numpy"):
        install.install(python, lock.packages, where, tmp_path / "x")
    assert installed(tmp_path / "env") == {}


def test_without_any_hash_the_rest_is_still_checked(
    python: Path, packages: Server, cache: dict[str, str], tmp_path: Path
) -> None:
    where = source(packages, cache)
    wrong = Package(name="numpy", version="1.26.4", hashes=("sha256:" + "0" * 64,))
    bare = Package(name="sympy", version="1.14.0")
    with pytest.raises(uv.Failed, match=r"(?i)hash mismatch"):
        install.install(python, [wrong, bare], where, tmp_path)
    install.install(python, [bare], where, tmp_path)
    assert installed(tmp_path / "env") == {"sympy": "1.14.0"}


def test_source_distributions_are_not_built(
    base: Path, packages: Server, cache: dict[str, str], tmp_path: Path
) -> None:
    packages.pages["/files/old-1.0.tar.gz"] = Page(b"")
    link = b'<a href="/files/old-1.0.tar.gz">old-1.0.tar.gz</a>'
    packages.pages["/simple/old/"] = Page(link, etag=None, headers={"Content-Type": "text/html"})
    with pytest.raises(uv.Failed, match="old"):
        locked(base, source(packages, cache), tmp_path / "x", requirements=["old"])


def test_a_package_that_is_not_there_is_named(
    base: Path, packages: Server, cache: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(uv.Failed, match="nowhere-to-be-found"):
        locked(base, source(packages, cache), tmp_path / "x", requirements=["nowhere-to-be-found"])


def test_no_python_of_that_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path))
    with pytest.raises(SetupError, match=r"no Python 3\.7.*offline.*--python"):
        venv.create(tmp_path / "env", "3.7", "env", Sources(packages=(), python=()))


def test_an_interpreter_of_another_architecture_will_not_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.base_prefix) / ("" if sys.platform == "win32" else "bin")))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path))
    here = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    system = {"Linux": "linux", "Darwin": "macos", "Windows": "windows"}[platform.system()]
    other = "aarch64" if here == "x86_64" else "x86_64"
    assert find_python(PYTHON, f"{system}-{here}") is not None
    assert find_python(PYTHON, f"{system}-{other}") is None
    with pytest.raises(SetupError, match=rf"no Python {PYTHON} for {system}-{other} on this machine"):
        venv.create(tmp_path / "env", PYTHON, "env", Sources(packages=(), python=(), platform=f"{system}-{other}"))


def test_the_one_of_the_machine_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path / "pythons"))
    with Server() as server:
        mirror = server.url.replace("//", "//me:secret@") + "/x?token=abc"
        mirrors = {"UV_PYTHON_INSTALL_MIRROR": server.url, "UV_HTTP_RETRIES": "0"}
        with pytest.raises(SetupError):
            get_python("3.12", [mirrors], "macos-aarch64-none")
        (path,) = set(server.paths)
        assert "/cpython-3.12." in path
        assert "-aarch64-apple-darwin-" in path
        with pytest.raises(SetupError) as caught:
            get_python("3.12", [{**mirrors, "UV_PYTHON_INSTALL_MIRROR": mirror}], "linux-x86_64")
    assert "http://***@127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_the_python_of_an_environment_is_the_one_that_was_asked_for(python: Path) -> None:
    said = subprocess.run([python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True)
    assert Path(said.stdout.strip()) == python.parents[1]
