"""Conda environments.

py-rattler makes real ones, from a small channel on a local server. conda, mamba and micromamba can't be had here: for
them only the words are tested that dlenv would call them with, by a stub that writes them down.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import conda_channel
import psutil
import pytest
from conda_channel import VERSION
from http_server import Page, Server

from dlenv.environment.distributions import conda_packages
from dlenv.environment.layout import Home, executable
from dlenv.errors import MissingExtra, NoEnvironment, SetupError
from dlenv.managers import conda, uv
from dlenv.managers.source import Sources

# Port 9 of this machine, "discard": nothing listens there, and a connection is refused at once.
DEAD = "http://127.0.0.1:9/conda-forge"


def sources(*channels: str) -> Sources:
    return Sources(packages=(), conda=channels)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the channel by their path on the server."""
    folder = tmp_path_factory.mktemp("conda-forge")
    conda_channel.build(folder)
    found = {
        f"/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in folder.rglob("*.*") if path.is_file()
    }
    assert sum(path.endswith(".conda") for path in found) == 2
    return found


@pytest.fixture
def channel(files: dict[str, bytes]) -> Iterator[Server]:
    with Server({path: Page(content) for path, content in files.items()}) as server:
        yield server


@pytest.fixture(autouse=True)
def no_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever runs the tests may have conda."""
    for name in ("MAMBA_EXE", "CONDA_EXE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def wheel(folder: Path) -> Path:
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny.py", "answer = 42\n")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    return path


def ask(python: Path, code: str) -> str:
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_an_environment_without_any_conda(channel: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "env.d" / "1"
    python = conda.create(path, VERSION, "env", sources(DEAD, channel.url))
    assert python == executable(path)
    assert ask(python, "import sys; print(sys.prefix)") == str(path)
    assert {(package.name, package.version) for package in conda_packages(path)} == {
        ("python", conda_channel.FULL_VERSION),
        ("pip", "99.0"),
    }
    talk = capsys.readouterr().err
    assert f"{DEAD} did not do: " in talk
    assert "Resolved 2 conda packages, " in talk

    # uv fills it, as it fills any environment.
    uv.run(["pip", "install", "--python", python, "--no-index", wheel(tmp_path)])
    assert ask(python, "import tiny; print(tiny.answer)") == "42"
    assert (path / f"lib/python{VERSION}/site-packages/tiny.py").is_file()


def test_no_such_python(channel: Server, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"has no python=3\.99 with pip for .*No candidates were found for python"):
        conda.create(tmp_path / "env", "3.99", "env", sources(channel.url, DEAD))
    assert not (tmp_path / "env").exists()


def test_every_address_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as caught:
        conda.create(tmp_path / "env", VERSION, "env", sources(DEAD, "http://user:secret@127.0.0.1:9/other"))
    assert f"{DEAD}: " in str(caught.value)
    assert "127.0.0.1:9/other: " in str(caught.value)
    assert "secret" not in str(caught.value)


def test_without_an_address(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="there is no source"):
        conda.create(tmp_path / "env", VERSION, "env", sources())


@pytest.mark.parametrize("damage", ["other", "cut", "missing"])
def test_a_damaged_package_is_not_installed(damage: str, channel: Server, tmp_path: Path) -> None:
    path = next(path for path in channel.pages if "/pip-" in path)
    content = channel.pages[path].content
    other = content[:-100] + bytes(byte ^ 1 for byte in content[-100:])
    pages = {"other": Page(other), "cut": Page(content[:-100]), "missing": Page(b"", status=404)}
    channel.pages[path] = pages[damage]
    with pytest.raises(SetupError, match="the conda environment could not be made: "):
        conda.create(tmp_path / "env", VERSION, "env", sources(channel.url))
    assert not (tmp_path / "env").exists()


CREATE = """
import signal, sys
from pathlib import Path
from dlenv.managers import conda
from dlenv.managers.source import Sources
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
conda.create(Path(sys.argv[1]), sys.argv[2], "env", Sources(packages=(), conda=(sys.argv[3],)))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(number: signal.Signals, channel: Server, tmp_path: Path) -> None:
    """Nothing is left that looks like an environment: the pipeline removes the folder, or its next run."""
    home = Home(tmp_path / "env")
    path = home.new()
    package = next(path for path in channel.pages if "/python-" in path)
    channel.pages[package] = Page(channel.pages[package].content, pause=0.2)
    child = subprocess.Popen(
        [sys.executable, "-c", CREATE, path, VERSION, channel.url], stderr=subprocess.PIPE, text=True
    )
    with child:
        deadline = time.monotonic() + 30
        while not any(request.path == package for request in channel.requests):
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        child.send_signal(number)
        _, talk = child.communicate(timeout=20)
    assert child.returncode == (143 if number == signal.SIGTERM else -signal.SIGINT), talk
    assert home.previous() == []
    with pytest.raises(NoEnvironment):
        executable(path)


def test_py_rattler_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rattler", None)
    with pytest.raises(MissingExtra, match=r"pip install 'dlenv\[conda\]'"):
        conda.create(tmp_path / "env", VERSION, "env", sources(DEAD))


Stub = Callable[..., Path]


@pytest.fixture
def stub(tmp_path: Path) -> Stub:
    """A program of this name that writes down its words, and makes ``bin/python`` unless the channel is dead."""

    def make(name: str, folder: str = "bin") -> Path:
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        words = shlex.quote(str(tmp_path / "words"))
        path.write_text(
            "#!/bin/sh\n"
            f'printf "%s\\n" "$@" >> {words}; echo "PYTHONHOME=${{PYTHONHOME-unset}}" >> {words}\n'
            f'case "$*" in *{DEAD}*) echo Solving; echo "CondaHTTPError: connection failed" >&2; exit 1;; esac\n'
            'while [ "$1" != --prefix ]; do shift; done\n'
            '/bin/mkdir -p "$2/bin" "$2/conda-meta" && : > "$2/bin/python"\n'
        )
        path.chmod(0o755)
        return path

    return make


WORDS = ["create", "--yes", "--prefix", "{env}", "--override-channels", "--channel", "{channel}", "--quiet"]


@pytest.mark.parametrize("name", ["micromamba", "mamba", "conda"])
def test_the_command_line(name: str, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(stub(name).parent))
    monkeypatch.setenv("PYTHONHOME", "/elsewhere")
    env, live = tmp_path / "env", "https://conda.example/conda-forge"
    python = conda.create(env, "3.11", "env", sources(DEAD, live))
    assert python == env / "bin" / "python"
    expected = []
    for channel in (DEAD, live):
        words = [word.format(env=env, channel=channel) for word in WORDS]
        if name == "conda":
            words.insert(-1, "--no-default-packages")
        expected += [*words, "python=3.11", "pip", "PYTHONHOME=unset"]
    assert (tmp_path / "words").read_text().splitlines() == expected


def test_which_program(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert conda.find() is None
    on_path, micromamba, other = stub("conda"), stub("micromamba"), stub("conda", "elsewhere")
    monkeypatch.setenv("PATH", os.pathsep.join(["/nowhere", str(on_path.parent)]))
    assert conda.find() == micromamba
    monkeypatch.setenv("CONDA_EXE", str(other))
    assert conda.find() == other
    monkeypatch.setenv("MAMBA_EXE", "/gone/micromamba")
    assert conda.find() == other
    monkeypatch.setenv("MAMBA_EXE", str(micromamba))
    assert conda.find() == micromamba


def test_what_the_program_said(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDA_EXE", str(stub("conda")))
    with pytest.raises(SetupError, match=r"9/conda-forge: Solving\nCondaHTTPError: connection failed"):
        conda.create(tmp_path / "env", "3.11", "env", sources(DEAD))


def test_a_program_that_makes_nothing(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stub("mamba")
    path.write_text("#!/bin/sh\n")
    monkeypatch.setenv("MAMBA_EXE", str(path))
    with pytest.raises(SetupError, match="is not a Python environment"):
        conda.create(tmp_path / "env", "3.11", "env", sources("https://conda.example/conda-forge"))


def test_an_interruption_ends_the_program(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, started = stub("conda"), tmp_path / "pid"
    path.write_text(f"#!/bin/sh\necho $$ > {shlex.quote(str(started))}\nexec /bin/sleep 60\n")
    monkeypatch.setenv("CONDA_EXE", str(path))
    with subprocess.Popen([sys.executable, "-c", CREATE, tmp_path / "env", "3.11", DEAD]) as child:
        deadline = time.monotonic() + 30
        while not (started.exists() and started.read_text().endswith("\n")):
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 143
    assert not psutil.pid_exists(int(started.read_text()))
