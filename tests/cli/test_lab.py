"""`dlenv lab`: JupyterLab with the kernel of one environment, whatever else is registered."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from dlenv.environment.record import Record
from dlenv.errors import NoEnvironment, SetupError
from dlenv.machine.model import Machine, Nvml
from dlenv.notebooks import kernel, lab
from dlenv.plan.model import Candidate, Course, Plan, Request

Run = Callable[..., Any]
pytest_plugins = ["jupyter_environment"]


def bare(env: Path) -> Path:
    """An environment without any package."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", env], check=True)
    return env


def record(build: str = "cu132", course: bool = True) -> Record:
    torch = Candidate(torch="2.15.0", torchvision="0.29.2", build=build, index=None)
    edition = Course(edition="zh", package="d2l==0.17.6", notebooks="https://zh-v2.d2l.ai/d2l-zh-2.0.0.zip")
    machine = Machine(os="linux", os_version="", kernel="", arch="x86_64", python="3.11.7", nvml=Nvml(status="no-gpu"))
    plan = Plan(manager="uv", python="3.11", torch=torch, course=edition if course else None)
    return Record(
        dlenv="0.1",
        created="2026-11-21T00:00:00Z",
        request=Request(),
        machine=machine,
        plan=plan,
        torch=torch,
        packages=(),
    )


def spec(env: Path) -> tuple[str, dict[str, Any]]:
    [file] = env.glob("share/jupyter/kernels/dlenv-*/kernel.json")
    return file.parent.name, json.loads(file.read_text(encoding="utf-8"))


# The kernel


@pytest.mark.parametrize(
    ("written", "title"),
    [
        (record(), "dlenv: zh course (.venv, Python 3.11, torch 2.15.0+cu132)"),
        (record(build="mps"), "dlenv: zh course (.venv, Python 3.11, torch 2.15.0)"),
        (record(course=False), "dlenv: environment (.venv, Python 3.11, torch 2.15.0+cu132)"),
    ],
)
def test_title_says_which_environment_it_is(tmp_path: Path, written: Record, title: str) -> None:
    env = bare(tmp_path / ".venv")
    written.write(env)
    assert kernel.register(env) == "dlenv-venv"
    assert spec(env)[1]["display_name"] == title


def test_environment_of_somebody_else_gets_a_kernel_too(tmp_path: Path) -> None:
    env = bare(tmp_path / "My Env_2")
    assert kernel.register(env) == "dlenv-my-env-2"
    version = ".".join(map(str, sys.version_info[:2]))
    assert spec(env)[1]["display_name"] == f"dlenv: environment (My Env_2, Python {version})"


def test_kernel_is_started_by_the_name_that_stays(tmp_path: Path) -> None:
    build = bare(tmp_path / ".venv.d" / "20261121-1")
    env = tmp_path / ".venv"
    kernel.register(env, build)
    env.symlink_to(build)
    name, written = spec(build)
    assert name == "dlenv-venv"
    assert Path(written["argv"][0]).parent.parent == env
    assert written["argv"][1:] == ["-m", "ipykernel_launcher", "-f", "{connection_file}"]
    assert kernel.register(env) == name
    assert spec(env) == (name, written)


def test_registering_again_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = bare(tmp_path / "env")
    kernel.register(env)
    [file] = env.glob("share/jupyter/kernels/*/*")
    before = file.stat()
    monkeypatch.chdir(tmp_path)
    assert kernel.register(Path("env")) == "dlenv-env"
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    file.write_text("{}")
    kernel.register(env)
    assert spec(env)[1]["argv"]
    assert list(file.parent.iterdir()) == [file]


def test_kernel_that_can_not_be_written(tmp_path: Path) -> None:
    env = bare(tmp_path / "env")
    (env / "share").touch()
    with pytest.raises(SetupError, match=r"kernel\.json can't be written .*--env"):
        kernel.register(env)


# The active environment


def test_environment_of_dlenv_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, activated, here = bare(tmp_path / "base"), bare(tmp_path / "activated"), bare(tmp_path / ".venv")
    monkeypatch.setenv("VIRTUAL_ENV", str(activated))
    monkeypatch.setenv("CONDA_PREFIX", str(base))
    assert kernel.active() == activated
    record().write(base)
    assert kernel.active() == base
    base.rename(tmp_path / "gone")
    monkeypatch.chdir(tmp_path)
    record().write(here)
    assert kernel.active() == Path(".venv")
    record().write(activated)
    assert kernel.active() == activated


def test_without_an_active_environment_it_is_the_own_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    assert kernel.active() == Path(sys.prefix)
    monkeypatch.setattr(sys, "prefix", "/nowhere")
    with pytest.raises(NoEnvironment, match="dlenv setup"):
        kernel.active()


def test_variables_are_those_of_activation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = bare(tmp_path / "env")
    monkeypatch.setenv("PYTHONHOME", "/somewhere")
    monkeypatch.setenv("VIRTUAL_ENV", "/another")
    variables = kernel.variables(env)
    assert variables["VIRTUAL_ENV"] == str(env)
    assert "PYTHONHOME" not in variables
    found = subprocess.run("command -v python", shell=True, capture_output=True, text=True, env=variables, check=True)
    assert Path(found.stdout.strip()).parent.parent == env


# JupyterLab


def test_environment_without_jupyterlab(tmp_path: Path) -> None:
    with pytest.raises(NoEnvironment, match=r"No module named 'jupyterlab'.*uv pip install --python"):
        lab.command(bare(tmp_path / "env"), tmp_path)


def test_no_environment_and_no_notebooks(run: Run, tmp_path: Path) -> None:
    result = run("lab", "--env", tmp_path / "none", "--notebooks", tmp_path)
    assert (result.code, result.stdout) == (1, "")
    assert "dlenv setup" in result.stderr
    result = run("lab", "--env", bare(tmp_path / "env"))
    assert (result.code, result.stdout) == (2, "")
    assert "dlenv notebooks fetch" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="a shell stands for the Python")
def test_a_reason_in_any_language_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python writes to a pipe in the code page of a Chinese Windows (cp936), unless told otherwise."""
    env = bare(tmp_path / "env")
    [site] = env.glob("lib/python3.*/site-packages")
    (site / "ipykernel.py").write_text("raise ImportError('环境 is broken')\n", encoding="utf-8")
    (site / "jupyterlab.py").touch()
    monkeypatch.setenv("PYTHONIOENCODING", "gbk")
    with pytest.raises(NoEnvironment, match="环境 is broken"):
        lab.command(env, tmp_path)
    # Whatever it is that writes there, it is no traceback.
    (env / "bin" / "python").unlink()
    (env / "bin" / "python").write_text("#!/bin/sh\nprintf 'bad \\273\\265' >&2; exit 1\n")
    (env / "bin" / "python").chmod(0o755)
    with pytest.raises(NoEnvironment, match="bad \ufffd"):
        lab.command(env, tmp_path)


@pytest.fixture
def server(jupyter: Path, tmp_path: Path) -> Iterator[tuple[httpx.Client, psutil.Process]]:
    """JupyterLab as `dlenv lab` starts it, for a user who has registered another "python3"."""
    home = Path(os.environ["HOME"])
    other = {"argv": ["/nowhere/python", "{connection_file}"], "display_name": "another", "language": "python"}
    for folder in (home / ".local/share/jupyter/kernels/python3", home / "data/jupyter/kernels/python3"):
        kernel.write(folder / "kernel.json", json.dumps(other))
    (tmp_path / "notebooks").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    words = [
        "lab",
        "--env",
        str(jupyter),
        "--notebooks",
        str(tmp_path / "notebooks"),
        "--no-browser",
        "--port",
        str(port),
    ]
    options = ["--allow-root", "--IdentityProvider.token=secret", "--ServerApp.port_retries=0"]
    log = tmp_path / "lab.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "dlenv", *words, "--", *options], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": "token secret"}, trust_env=False, timeout=30
        ) as client:
            deadline = time.monotonic() + 90
            while True:
                try:
                    client.get("/api/status")
                    break
                except httpx.TransportError:
                    assert child.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.2)
            yield client, psutil.Process(child.pid)
    finally:
        started = psutil.Process(child.pid).children(recursive=True) if child.poll() is None else []
        child.send_signal(signal.SIGTERM)
        child.wait(30)
        assert psutil.wait_procs(started, 20)[1] == []


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the test looks at POSIX processes")
def test_lab_runs_the_own_python_by_whatever_name(
    server: tuple[httpx.Client, psutil.Process], jupyter: Path, tmp_path: Path
) -> None:
    client, process = server
    found = client.get("/api/kernelspecs").raise_for_status().json()
    assert found["default"] == "dlenv-env"
    assert found["kernelspecs"]["dlenv-env"]["spec"]["display_name"].startswith("dlenv: environment (env, Python ")
    assert found["kernelspecs"]["python3"]["spec"]["display_name"] != "another"
    for name in ("python3", "dlenv-env"):
        client.post("/api/kernels", json={"name": name}).raise_for_status()
    commands = [child.cmdline() for child in process.children()]
    assert [command[0] for command in commands if "ipykernel_launcher" in command] == [str(jupyter / "bin/python")] * 2
    (tmp_path / "notebooks" / "mine.txt").touch()
    contents = client.get("/api/contents").raise_for_status().json()
    assert [entry["name"] for entry in contents["content"]] == ["mine.txt"]
