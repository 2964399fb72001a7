"""A probe that is interrupted, that nobody answers, or that must leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from dlenv import probe
from dlenv.probe import runner

Run = Callable[..., Any]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and scripts of the shell")


@pytest.fixture
def env(tmp_path: Path) -> Path:
    """An environment that holds nothing."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    return tmp_path / "env"


def put(env: Path, name: str, code: str) -> None:
    (next(env.glob("lib/python*/site-packages")) / f"{name}.py").write_text(code)


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o755)
    return path


def appeared(file: Path, seconds: float = 20) -> str:
    end = time.monotonic() + seconds
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < end, f"{file} did not appear"
        time.sleep(0.02)
    return file.read_text()


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "Interrupted."), (signal.SIGTERM, 143, "Terminated")]
)
def test_an_interruption_ends_the_probe_and_leaves_nothing(
    env: Path, tmp_path: Path, number: signal.Signals, code: int, word: str
) -> None:
    sign = tmp_path / "pid"
    put(env, "torch", f"import os, time\nopen({str(sign)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)")
    (tmp_path / "scratch").mkdir()
    command = [sys.executable, "-m", "dlenv", "doctor", "--env", str(env), "--only", "torch.import", "--offline"]
    doctor = subprocess.Popen(
        command, env=os.environ | {"TMPDIR": str(tmp_path / "scratch")}, stderr=subprocess.PIPE, text=True
    )
    try:
        child = int(appeared(sign))
        doctor.send_signal(number)
        _, said = doctor.communicate(timeout=20)
    finally:
        doctor.kill()
    assert (doctor.returncode, said.strip()) == (code, word)
    assert is_gone(child)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_stopped_children_start_no_more(env: Path, tmp_path: Path) -> None:
    sign = tmp_path / "pid"
    put(env, "torch", f"import os, time\nopen({str(sign)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)")
    children = probe.Children()
    reports: list[probe.Report] = []
    thread = threading.Thread(
        target=lambda: reports.append(probe.run(env / "bin" / "python", stages=["torch", "numpy"], children=children))
    )
    thread.start()
    pid = int(appeared(sign))
    children.stop()
    thread.join(20)
    assert is_gone(pid)
    assert [stage.name for stage in reports[0].stages] == ["torch"]
    assert "Interrupted system call" in (reports[0].problem or "")


@pytest.mark.parametrize("script", ["exec yes\n", "exec cat /dev/zero\n", "exec sleep 600\n"])
def test_what_is_no_python_costs_little(tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_START_LIMIT_S", 0.5)
    began = time.monotonic()
    report = probe.run(program(tmp_path / "python", script))
    assert report.problem is not None
    assert report.problem.startswith("Python did not start within")
    assert time.monotonic() - began < 10


def test_packages_have_more_time_than_the_start(env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_START_LIMIT_S", 2)
    put(env, "torch", "import time; time.sleep(2.5)")
    report = probe.run(env / "bin" / "python", stages=["python", "torch"])
    assert report.facts("python")["bits"] in (32, 64)
    assert [stage.error for stage in report.stages if "within" in (stage.error or "")] == []


@pytest.mark.parametrize(
    "line",
    [
        b"dlenv-probe garbage",
        b"dlenv-probe \xff\xfe",
        b"dlenv-probe 7",
        b'dlenv-probe {"event": "start"}',
        b'dlenv-probe {"event": "end", "name": "torch", "status": "splendid"}',
        b"dlenv-probe " + b"[" * 3000,
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_not_the_scripts_is_not_read(env: Path, line: bytes) -> None:
    put(env, "sitecustomize", f"import os; os.write(1, {line!r} + b'\\n')")
    report = probe.run(env / "bin" / "python", stages=["python"])
    assert [(stage.name, stage.status) for stage in report.stages] == [("python", "ok")]


def test_an_old_python_is_called_old(tmp_path: Path) -> None:
    script = 'case "$1" in -c) echo "(3, 6)";; *) echo "SyntaxError: future feature" >&2; exit 1;; esac\n'
    report = probe.run(program(tmp_path / "python", script))
    assert report.problem == "Python 3.6 is too old: 3.8 is the oldest that can be examined"
    new = 'case "$1" in -c) echo "(3, 11)";; *) echo "broken" >&2; exit 1;; esac\n'
    assert "before anything was tried: broken" in str(probe.run(program(tmp_path / "python", new)).problem)


def test_an_environment_of_an_old_python_is_built_again(env: Path, run: Run) -> None:
    script = 'case "$1" in -c) echo "(2, 7)";; *) exit 1;; esac\n'
    (env / "bin" / "python").unlink()
    program(env / "bin" / "python", script)
    (check,) = json.loads(run("doctor", "--env", env, "--only", "python.start", "--json").stdout)["checks"]
    assert (check["status"], check["fix"]) == ("fail", f"dlenv setup --env {env} --python 3.11")
    assert check["detail"].startswith("Python 2.7 is too old: 3.8 is the oldest")


def test_facts_are_found_without_writing(env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Matplotlib does: it writes its fonts into MPLCONFIGDIR, else into the user's home."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    put(
        env,
        "matplotlib",
        "import os, pathlib\n"
        "folder = pathlib.Path(os.environ.get('MPLCONFIGDIR') or pathlib.Path.home() / '.config' / 'matplotlib')\n"
        "folder.mkdir(parents=True, exist_ok=True)\n"
        "(folder / 'fontlist.json').touch()\n"
        "import numpy\n",
    )
    put(env, "numpy", "")
    before = sorted([*env.rglob("*"), *(tmp_path / "home").rglob("*")])
    probe.run(env / "bin" / "python", stages=["matplotlib"])
    assert sorted([*env.rglob("*"), *(tmp_path / "home").rglob("*")]) == before


def test_a_disk_that_hangs_ends_nothing(env: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlenv.doctor import gather

    for name in ("record", "distributions"):
        monkeypatch.setitem(gather._LIMITS, name, 0.5)
    note = next(env.glob("lib/python*/site-packages")) / "x-1.0.dist-info"
    note.mkdir()
    os.mkfifo(note / "METADATA")
    os.mkfifo(env / "dlenv-environment.json")
    began = time.monotonic()
    result = run("doctor", "--env", env, "--only", "packages.duplicates", "--only", "python.start", "--json")
    assert time.monotonic() - began < 20
    checks = {check["id"]: check for check in json.loads(result.stdout)["checks"]}
    assert checks["python.start"]["status"] == "ok"
    assert checks["packages.duplicates"]["status"] == "error"
    assert "distributions: it did not answer within 0.5 s" in checks["packages.duplicates"]["detail"]


def test_json_describes_the_machine_whatever_is_asked(
    env: Path, run: Run, with_gpus: Callable[..., Any], tmp_path: Path
) -> None:
    with_gpus(driver="550.54.14", cuda="12.4", gpus=[("NVIDIA GeForce RTX 4060", "8.9", 8188)])
    words = ("doctor", "--env", env, "--only", "python.start", "--json")
    machine = json.loads(run(*words).stdout)["machine"]
    assert (machine["driver"], machine["os"], len(machine["gpus"])) == ("550.54.14", sys.platform, 1)
    run(*words[:-1], "--report", tmp_path / "report.md")
    assert "RTX 4060" in (tmp_path / "report.md").read_text()
