"""Of the user's settings of uv, those count that say how to reach packages, and none that says which to take."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from http_server import Page, Server
from wheel_index import add, wheel

from dlenv.catalog.mirrors import Kind
from dlenv.managers import install, uv
from dlenv.managers.source import Source
from dlenv.network.configured import uv_user_file
from dlenv.network.mirrors import choose
from dlenv.plan import Candidate, Plan

PYTHON = "{}.{}".format(*sys.version_info)
TORCH = Candidate(torch="2.14.1", torchvision="0.29.1", build="cu126", index="-")
PLAN = Plan(manager="uv", python=PYTHON, torch=TORCH, packages=("sympy",))


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("UV_", "PIP_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "etc"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def pytorch() -> Iterator[Server]:
    with Server() as running:
        add(running, "torch", "2.14.1+cu126")
        add(running, "torchvision", "0.29.1+cu126")
        yield running


@pytest.fixture
def packages(server: Server) -> Server:
    """A package index with two versions of a package, one before a release, and its own torch."""
    add(server, "torch", "2.14.1")
    add(server, "torchvision", "0.29.1")
    links = []
    for version in ("1.13.0", "1.14.0", "1.15.0rc1"):
        add(server, "sympy", version)
        links.append(server.pages["/simple/sympy/"].content)
    server.pages["/simple/sympy/"].content = b"\n".join(links)
    return server


def configure(text: str) -> None:
    uv_user_file().parent.mkdir(parents=True, exist_ok=True)
    uv_user_file().write_text(text, encoding="utf-8")


def ask(name: str, environment: dict[str, str] | None = None) -> None:
    """Make uv look for a package that nobody has."""
    Path("wanted.in").write_text(name)
    with pytest.raises(uv.Failed):
        uv.run(["pip", "compile", "--python", sys.executable, "--quiet", Path.cwd() / "wanted.in"], environment or {})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("UV_CONFIG_FILE", "constraint"),
        ("UV_CONSTRAINT", "nowhere.txt"),
        ("UV_EXCLUDE", "nowhere.txt"),
        ("UV_EXCLUDE_NEWER", "2000-01-01T00:00:00Z"),
        ("UV_NO_BINARY", "1"),
        ("UV_NO_BINARY_PACKAGE", "sympy"),
        ("UV_NO_SOURCES", "1"),
        ("UV_NO_SOURCES_PACKAGE", "torch"),
        ("UV_OVERRIDE", "nowhere.txt"),
        ("UV_PRERELEASE", "allow"),
        ("UV_RESOLUTION", "lowest"),
        ("UV_TORCH_BACKEND", "cu80"),
        ("uv.toml", '[pip]\nresolution = "lowest"\n'),
        ("uv.toml", '[pip]\ntorch-backend = "cu118"\n'),
        ("uv.toml", 'constraint-dependencies = ["sympy<1.14"]\n'),
        ("uv.toml", 'override-dependencies = ["sympy<1.14"]\n'),
        ("uv.toml", "no-binary = true\n"),
        ("uv.toml", "no-sources = true\n"),
        ("uv.toml", 'prerelease = "allow"\n'),
        ("uv.toml", 'required-version = "==0.0.1"\n'),
        ("uv.toml", 'resolution = "lowest"\n'),
        ("uv.toml", 'torch-backend = "cu118"\n'),
        ("uv.toml", 'exclude-newer = "2000-01-01T00:00:00Z"\n'),
    ],
)
def test_what_is_installed_is_not_the_users_configuration(
    packages: Server, pytorch: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    if variable == "uv.toml":
        configure(value)
    elif variable == "UV_CONFIG_FILE":
        given = tmp_path / "given.toml"
        given.write_text('constraint-dependencies = ["sympy<1.14"]\n')
        monkeypatch.setenv(variable, str(given))
    else:
        monkeypatch.setenv(variable, value)
    where = Source(
        candidate=TORCH,
        torch_index=pytorch.url + "/simple",
        local="cu126",
        environment={"UV_DEFAULT_INDEX": packages.url + "/simple"},
    )
    (tmp_path / "x").mkdir()
    lock = install.lock(["--python", sys.executable], PLAN, where, tmp_path / "x")
    versions = {package.name: package.version for package in lock.packages}
    assert versions == {"sympy": "1.14.0", "torch": "2.14.1+cu126", "torchvision": "0.29.1+cu126"}


def test_how_packages_are_reached_is(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = "Basic " + base64.b64encode(b"me:secret").decode()
    configure(f'index-url = "{server.url.replace("//", "//me:secret@")}/one"\n')
    ask("nobody-has-this")
    assert server.paths[-1] == "/one/nobody-has-this/"
    assert server.requests[-1].headers["Authorization"] == secret
    server.requests.clear()
    configure(f'[[index]]\nname = "mine"\nurl = "{server.url}/two"\ndefault = true\nauthenticate = "always"\n')
    monkeypatch.setenv("UV_INDEX_MINE_USERNAME", "me")
    monkeypatch.setenv("UV_INDEX_MINE_PASSWORD", "secret")
    ask("nobody-has-this")
    assert server.requests[-1].headers["Authorization"] == secret
    server.requests.clear()
    etc = tmp_path / "etc" / "uv" / "uv.toml"  # the system's: its lists are added to the user's
    etc.parent.mkdir(parents=True)
    etc.write_text(
        f'extra-index-url = ["{server.url}/system"]\nhttp-proxy = "{server.url}"\nno-proxy = ["127.0.0.1"]\n'
    )
    configure(f'extra-index-url = ["{server.url}/mine"]\nindex-url = "http://nowhere.invalid/simple"\n')
    ask("nobody-has-this")
    assert set(server.paths) == {
        "/mine/nobody-has-this/",
        "/system/nobody-has-this/",
        "http://nowhere.invalid/simple/nobody-has-this/",
    }


@pytest.mark.parametrize(
    "text",
    [
        'no-index = true\nfind-links = ["wheels"]\n',
        '[pip]\nno-index = true\nfind-links = ["./wheels"]\n',
        'index = [{ url = "wheels", format = "flat", default = true }]\n',
    ],
)
def test_a_path_in_a_file_starts_at_the_file(text: str) -> None:
    configure(text)
    file, content, _ = wheel("sympy", "1.14.0", "py3-none-any")
    folder = uv_user_file().parent / "wheels"
    folder.mkdir()
    (folder / file).write_bytes(content)
    Path("wanted.in").write_text("sympy")
    words = ["pip", "compile", "--python", sys.executable, "--quiet", Path.cwd() / "wanted.in"]
    assert "sympy==1.14.0" in uv.run(words)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("UV_INDEX", "{}/mine"),
        ("UV_DEFAULT_INDEX", "{}/mine"),
        ("UV_EXTRA_INDEX_URL", "{}/mine"),
        ("UV_INDEX_URL", "{}/mine"),
        ("UV_FIND_LINKS", "{}/mine"),
        ("uv.toml", '[[index]]\nurl = "{}/mine"\n'),
        ("uv.toml", 'index-url = "{}/mine"\n'),
        ("uv.toml", '[pip]\nindex-url = "{}/mine"\n'),
        ("uv.toml", '[pip]\nextra-index-url = ["{}/mine"]\n'),
        ("uv.toml", 'find-links = ["{}/mine"]\n'),
    ],
)
@pytest.mark.parametrize("wanted", ["none", "campus"])
def test_a_mirror_that_is_named_is_the_only_index(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, value: str, wanted: str
) -> None:
    rows = ("official", "true"), ("campus", "false")
    text = "".join(
        f'[[pypi]]\nname = "{n}"\nurl = "{server.url}/{n}"\nofficial = {o}\nimplied = {o}\n' for n, o in rows
    )
    (tmp_path / "mirrors.toml").write_text("replace = true\n" + text)
    monkeypatch.setenv("DLENV_MIRRORS", str(tmp_path / "mirrors.toml"))
    configure(value.format(server.url)) if place == "uv.toml" else monkeypatch.setenv(place, value.format(server.url))
    for name in ("official", "campus"):
        server.pages[f"/{name}/torch/"] = Page()
    mirror = choose("pypi", wanted).mirrors[0]
    server.requests.clear()
    ask("nobody-has-this", mirror.environment())
    name = "official" if wanted == "none" else "campus"
    assert set(server.paths) == {f"/{name}/nobody-has-this/"}


def test_a_download_of_python_goes_where_it_is_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_PYTHON_INSTALL_MIRROR", f"{server.url}/mine")
    kind: Kind = "python"
    assert choose(kind).mirrors[0].environment() == {}
    official = choose(kind, "none").mirrors[0]
    assert official.environment() == {"UV_PYTHON_INSTALL_MIRROR": official.url}


def test_what_uv_says_is_read_as_utf_8_in_any_locale(tmp_path: Path) -> None:
    """As on Windows, where Python reads a program's output in the code page of the system."""
    code = "from dlenv.managers import uv\ntry: uv.run(['pip', 'list', '--python', __import__('sys').argv[1]])\n"
    code += "except uv.Failed as error: print(ascii(str(error)))"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    words = [sys.executable, "-c", code, str(tmp_path / "没有")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert ascii("没有")[1:-1] in done.stdout, done.stderr


def test_no_password_is_in_what_uv_says(server: Server) -> None:
    url = server.url.replace("//", "//me:secret@")
    Path("wanted.in").write_text("x @ " + url + "/x-1-py3-none-any.whl?token=abcdef")
    with pytest.raises(uv.Failed) as caught:
        uv.run(["pip", "compile", "--python", sys.executable, "--quiet", Path.cwd() / "wanted.in"])
    assert "x-1-py3-none-any.whl" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "abcdef" not in str(caught.value)


@pytest.mark.parametrize(
    ("requirements", "hopeless"),
    [
        (["sympy==1.14.0", "sympy==1.13.0"], True),
        (["needy", "sympy==1.14.0"], True),
        (["nobody-has-this"], False),
        (["sympy==99"], False),
        (["sympy>=1.16"], False),
        (["needy", "sympy>=1.14.0"], True),
        (["greedy"], False),  # what it depends on is not here, and may be elsewhere
    ],
)
def test_a_conflict_is_told_from_a_lack(packages: Server, requirements: list[str], hopeless: bool) -> None:
    add(packages, "needy", "1.0", requires=["sympy==1.13.0"])
    add(packages, "greedy", "1.0", requires=["sympy==2.0"])
    Path("wanted.in").write_text("\n".join(requirements))
    with pytest.raises(uv.Failed, match="No solution found") as caught:
        uv.run(
            ["pip", "compile", "--python", sys.executable, "--quiet", Path.cwd() / "wanted.in"],
            {"UV_DEFAULT_INDEX": packages.url + "/simple"},
        )
    assert isinstance(caught.value, uv.Hopeless) is hopeless, caught.value


def test_an_index_that_fails_is_no_reason_to_give_up(server: Server) -> None:
    server.pages["/simple/sympy/"] = Page(status=500)
    Path("wanted.in").write_text("sympy")
    words = ["pip", "compile", "--python", sys.executable, "--quiet", Path.cwd() / "wanted.in"]
    for url in (server.url, "http://127.0.0.1:9"):
        with pytest.raises(uv.Failed) as caught:
            uv.run(words, {"UV_DEFAULT_INDEX": url + "/simple"})
        assert type(caught.value) is uv.Failed


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_no_other_source_helps_where_the_disk_is_full(packages: Server) -> None:
    Path("wanted.in").write_text("sympy")
    words = ["pip", "compile", "--python", sys.executable, "--quiet", Path.cwd() / "wanted.in", "-o", "/dev/full"]
    with pytest.raises(uv.Hopeless, match="No space left"):
        uv.run(words, {"UV_DEFAULT_INDEX": packages.url + "/simple"})


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such terminals")
@pytest.mark.parametrize(
    ("words", "error"),
    [(["-o", "/dev/full"], "Hopeless"), (["--index-url", "http://127.0.0.1:9"], "Failed"), ([], "none")],
)
def test_so_it_is_on_a_terminal(packages: Server, words: list[str], error: str) -> None:
    """uv believes that it talks to a terminal, the user sees all of it, and the error is known."""
    Path("wanted.in").write_text("sympy")
    command = ["pip", "compile", "--python", sys.executable, str(Path.cwd() / "wanted.in"), *words]
    code = "import sys; from dlenv.managers import uv\ntry: uv.run(sys.argv[1:], show=True); print('none')\n"
    code += "except uv.Failed as error: print(type(error).__name__, error)"
    environment = {**os.environ, "TERM": "xterm"}
    if error != "Failed":
        environment["UV_DEFAULT_INDEX"] = packages.url + "/simple"
    ours, its = os.openpty()
    with subprocess.Popen([sys.executable, "-c", code, *command], env=environment, stdout=-1, stderr=its) as process:
        os.close(its)
        said = b""
        with suppress(OSError):  # the end, on Linux
            while piece := os.read(ours, 1 << 16):
                said += piece
        assert process.stdout is not None
        told = process.stdout.read().decode().strip()
    os.close(ours)
    assert told == ("none" if error == "none" else f"{error} see what uv says above")
    assert b"\x1b[" in said
    assert {"Hopeless": b"No space left", "Failed": b"127.0.0.1:9", "none": b"Resolved"}[error] in said
