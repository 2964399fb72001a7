"""`dlenv notebooks run`: what runs, what does not and why, and what a run leaves as it was."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dlenv.environment.record import Record
from dlenv.errors import NoEnvironment, UsageError
from dlenv.machine.model import Machine, Nvml
from dlenv.notebooks import run as running
from dlenv.notebooks.folder import Manifest
from dlenv.notebooks.outcome import Outcome, classify
from dlenv.notebooks.runner import without_installs
from dlenv.plan.model import Candidate, Course, Plan, Request

Run = Callable[..., Any]
pytest_plugins = ["jupyter_environment"]


def write(path: Path, *cells: str) -> Path:
    """A notebook with these code cells, after a cell of text."""
    code = [
        {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": cell} for cell in cells
    ]
    text = {"cell_type": "markdown", "metadata": {}, "source": "# Title"}
    kernel = {"kernelspec": {"display_name": "Python 3", "name": "python3"}, "language_info": {"name": "python"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": [text, *code], "metadata": kernel, "nbformat": 4, "nbformat_minor": 4}))
    return path


@pytest.fixture
def notebooks(tmp_path: Path) -> Path:
    root = tmp_path / "d2l-zh"
    for name in ("chapter_preliminaries/pandas", "chapter_preliminaries/probability", "chapter_preface/index", "index"):
        write(root / f"{name}.ipynb", "1 + 1")
    write(root / "chapter_preface/.ipynb_checkpoints/index-checkpoint.ipynb", "1 / 0")
    return root


# Which notebooks


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["chapter_preface/index", "chapter_preliminaries/pandas", "chapter_preliminaries/probability", "index"]),
        (["preliminaries"], ["chapter_preliminaries/pandas", "chapter_preliminaries/probability"]),
        (["chapter_preliminaries/"], ["chapter_preliminaries/pandas", "chapter_preliminaries/probability"]),
        (["./preliminaries/pandas.ipynb"], ["chapter_preliminaries/pandas"]),
        (["preliminaries\\pandas"], ["chapter_preliminaries/pandas"]),
        (["pre"], ["chapter_preface/index", "chapter_preliminaries/pandas", "chapter_preliminaries/probability"]),
        (["preliminaries/pro", "index"], ["chapter_preliminaries/probability", "index"]),
    ],
)
def test_words_name_notebooks(notebooks: Path, words: list[str], names: list[str]) -> None:
    assert list(running.select(notebooks, words)) == names


def test_full_name_means_one_notebook(notebooks: Path) -> None:
    write(notebooks / "chapter_preliminaries/pandas-more.ipynb", "1")
    assert list(running.select(notebooks, ["preliminaries/pandas"])) == ["chapter_preliminaries/pandas"]


def test_word_that_names_nothing(notebooks: Path) -> None:
    with pytest.raises(UsageError, match=r"'preliminares/panda'.*did you mean chapter_preliminaries/pandas"):
        running.select(notebooks, ["preliminares/panda"])
    with pytest.raises(UsageError, match="dlenv notebooks list"):
        running.select(notebooks, ["zzz"])


def test_folder_without_notebooks(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="dlenv notebooks fetch"):
        running.select(tmp_path, [])


def test_default_folder_is_that_of_the_course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for edition in ("zh", "en"):
        Path(f"d2l-{edition}").mkdir()
        Manifest(edition=edition, source="", archive="", files={}).write(Path(f"d2l-{edition}"))
    with pytest.raises(UsageError, match="d2l-zh and d2l-en"):
        running.default(tmp_path)
    course = Course(edition="en", package="d2l", notebooks="")
    torch = Candidate(torch="2.15.0", torchvision="0.29.2", build="cpu", index=None)
    Record(
        dlenv="0.1",
        created="2026-11-21T00:00:00Z",
        request=Request(),
        machine=Machine(
            os="linux", os_version="", kernel="", arch="x86_64", python="3.11.7", nvml=Nvml(status="no-gpu")
        ),
        plan=Plan(manager="uv", python="3.11", torch=torch, course=course),
        torch=torch,
        packages=(),
        notebooks=str(tmp_path / "d2l-en"),
    ).write(tmp_path)
    assert running.default(tmp_path) == Path("d2l-en")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert running.default(tmp_path) == tmp_path / "d2l-en"
    (tmp_path / "d2l-en").rename(tmp_path / "gone")
    with pytest.raises(UsageError, match="dlenv notebooks fetch --course en"):
        running.default(tmp_path)


# Why


@pytest.mark.parametrize(
    ("error", "traceback", "kind"),
    [
        ("URLError: <urlopen error [Errno -2] Name or service not known>", "", "network"),
        ("HTTPError: HTTP Error 403: Forbidden", "", "network"),
        ("requests.exceptions.ConnectionError: HTTPConnectionPool(host='d2l-data'): Max retries", "", "network"),
        ("RuntimeError: Error downloading train-images-idx3-ubyte.gz", "", "network"),
        ("RuntimeError: no data", "urllib.error.URLError: <urlopen error timed out>", "network"),
        ("AssertionError: Torch not compiled with CUDA enabled", "", "gpu"),
        ("RuntimeError: Found no NVIDIA driver on your system.", "", "gpu"),
        ("AcceleratorError: CUDA error: invalid device ordinal\nCUDA kernel errors might be", "", "gpu"),
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "", "gpu"),
        ("IndexError: list index out of range", "----> 7 x_gpu2 = torch.rand(9, device=devices[1])", "gpu"),
        ("IndexError: list index out of range", "----> 1 [][0]", "error"),
        ("AcceleratorError: CUDA error: no kernel image is available for execution on the device", "", "environment"),
        ("ModuleNotFoundError: No module named 'gym'", "", "environment"),
        ("ImportError: libcudart.so.13: cannot open shared object file", "", "environment"),
        ("AttributeError: module 'd2l.torch' has no attribute 'train_ch3'", "", "environment"),
        ("RuntimeError: operator torchvision::nms does not exist", "", "environment"),
        ("ValueError: numpy.ndarray size changed, may indicate binary incompatibility", "", "environment"),
        ("AttributeError: 'NoneType' object has no attribute 'x'", "", "error"),
        ("ZeroDivisionError: division by zero", "", "error"),
        ("KeyboardInterrupt: ", "", "error"),
        ("", "", "error"),
    ],
)
def test_why_a_notebook_failed(error: str, traceback: str, kind: str) -> None:
    found, line = classify({"status": "failed", "error": error, "traceback": traceback})
    assert found == kind
    assert line == (error.splitlines()[0].strip() if error else "failed")


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("ran", False),
        ("network", False),
        ("gpu", False),
        ("empty", False),
        ("environment", True),
        ("timeout", True),
        ("error", True),
    ],
)
def test_what_is_wrong(kind: Any, wrong: bool) -> None:
    assert Outcome(notebook="a", kind=kind, seconds=1).wrong is wrong


@pytest.mark.parametrize(
    "line",
    [
        "!pip install d2l==1.0.3",
        "%pip install x",
        "!python -m pip install x",
        "! pip3 install x",
        "!conda install x",
        "!uv pip install x",
        "!{sys.executable} -m pip install x",
    ],
)
def test_cells_do_not_install(line: str) -> None:
    assert without_installs(f"import torch\n{line}\nprint(1)") == "import torch\nprint(1)"


@pytest.mark.parametrize("line", ["# !pip install pandas", "!pip list", "pip = install", "!nvidia-smi"])
def test_other_lines_stay(line: str) -> None:
    assert without_installs(f"{line}\nprint(1)") == f"{line}\nprint(1)"


# Runs


@pytest.mark.slow
def test_results_are_tabulated_and_nothing_changes(run: Run, jupyter: Path, tmp_path: Path) -> None:
    root = tmp_path / "notebooks"
    write(
        root / "a/ran.ipynb",
        "!pip install nothing-that-exists",
        "import os; print(os.getcwd())",
        "import sys; print(sys.executable)",
    )
    write(root / "a/text.ipynb")
    write(root / "b/network.ipynb", "1", "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9/x')")
    write(root / "b/gpu.ipynb", "assert False, 'Torch not compiled with CUDA enabled'")
    write(root / "c/missing.ipynb", "import nothing_that_exists")
    write(root / "c/dies.ipynb", "1", "import os; os._exit(3)")
    write(root / "c/wrong.ipynb", "1 / 0")
    (root / "c/empty.ipynb").touch()
    (root / "c/damaged.ipynb").write_text("{}")
    before = hashes(root)

    result = run("notebooks", "run", "--env", jupyter, "--notebooks", root, "--json", "--keep", tmp_path / "kept")

    assert result.code == 1
    found = json.loads(result.stdout)
    assert found["schema"] == 1
    assert found["counts"] == {"ran": 2, "gpu": 1, "network": 1, "error": 3, "empty": 1, "environment": 1}
    assert {entry["notebook"]: (entry["kind"], entry["cell"]) for entry in found["results"]} == {
        "a/ran": ("ran", None),
        "a/text": ("ran", None),
        "b/gpu": ("gpu", 1),
        "b/network": ("network", 2),
        "c/damaged": ("error", None),
        "c/dies": ("error", 2),
        "c/empty": ("empty", None),
        "c/missing": ("environment", 1),
        "c/wrong": ("error", 1),
    }
    errors = {entry["notebook"]: entry["error"] for entry in found["results"]}
    assert errors["c/missing"] == "ModuleNotFoundError: No module named 'nothing_that_exists'"
    assert errors["c/wrong"] == "ZeroDivisionError: division by zero"
    assert "died" in errors["c/dies"]
    assert "[9/9] c/wrong: error" in result.stderr
    assert hashes(root) == before
    executed = json.loads((tmp_path / "kept/a/ran.ipynb").read_text())
    printed = ["".join(cell["outputs"][0]["text"]).strip() for cell in executed["cells"][2:]]
    assert printed == [str(root / "a"), str(jupyter / "bin" / "python")]
    assert (tmp_path / "kept/c/wrong.ipynb").exists()


@pytest.mark.slow
def test_success_in_a_pipe(run: Run, jupyter: Path, notebooks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(notebooks.parent)
    result = run("notebooks", "run", "preface", "--env", jupyter, "--notebooks", notebooks.name)
    assert result.code == 0
    header, row = result.stdout.splitlines()
    assert header.split("\t") == ["notebook", "result", "seconds", "why"]
    assert row.split("\t")[:2] == ["chapter_preface/index", "ran"]


@pytest.mark.slow
def test_missing_network_and_gpu_are_no_failure(run: Run, jupyter: Path, tmp_path: Path) -> None:
    write(tmp_path / "n/gpu.ipynb", "raise RuntimeError('No CUDA GPUs are available')")
    assert run("notebooks", "run", "--env", jupyter, "--notebooks", tmp_path / "n").code == 0


@pytest.mark.slow
def test_time_limit_ends_the_kernel(run: Run, jupyter: Path, tmp_path: Path) -> None:
    write(
        tmp_path / "n/loops.ipynb",
        note_pid(tmp_path / "pid"),
        "while True: pass",
    )
    result = run("notebooks", "run", "--env", jupyter, "--notebooks", tmp_path / "n", "--time-limit", "4", "--json")
    assert result.code == 1
    [entry] = json.loads(result.stdout)["results"]
    assert (entry["kind"], entry["cell"]) == ("timeout", 2)
    assert ends(int((tmp_path / "pid").read_text()))


@pytest.fixture
def started(jupyter: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A run of a notebook that goes on for ever, and the process of its kernel."""
    write(tmp_path / "n/waits.ipynb", note_pid(tmp_path / "pid"), "import time; time.sleep(600)")
    words = ["notebooks", "run", "--env", str(jupyter), "--notebooks", str(tmp_path / "n")]
    child = subprocess.Popen([sys.executable, "-m", "dlenv", *words], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield child, int((tmp_path / "pid").read_text())
    child.kill()
    child.communicate()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C can't be sent to one process on Windows")
def test_ctrl_c_ends_the_kernel(started: tuple[subprocess.Popen[str], int]) -> None:
    child, kernel = started
    child.send_signal(signal.SIGINT)
    assert "Interrupted." in child.communicate(timeout=30)[1]
    assert child.returncode == 130
    assert ends(kernel)


@pytest.mark.slow
def test_kernel_ends_with_a_killed_run(started: tuple[subprocess.Popen[str], int]) -> None:
    child, kernel = started
    child.kill()
    child.communicate(timeout=30)
    assert ends(kernel)


# What can't be run


def test_environment_without_python(tmp_path: Path, notebooks: Path, run: Run) -> None:
    result = run("notebooks", "run", "--env", tmp_path / "none", "--notebooks", notebooks)
    assert result.code == 1
    assert result.stderr.startswith("Error: ")
    assert "dlenv setup" in result.stderr


def test_environment_without_nbclient(notebooks: Path, tmp_path: Path) -> None:
    env = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", env], check=True)
    with pytest.raises(NoEnvironment, match=r"No module named 'nbclient'.*uv pip install --python"):
        list(running.run(env, notebooks, running.select(notebooks, []), 60))


def test_copies_do_not_go_among_the_notebooks(notebooks: Path, tmp_path: Path) -> None:
    for keep in (notebooks, notebooks / "kept"):
        with pytest.raises(UsageError, match="name one outside it"):
            list(running.run(tmp_path, notebooks, running.select(notebooks, []), 60, keep))


def test_no_notebook_of_this_name(run: Run, notebooks: Path, tmp_path: Path) -> None:
    result = run("notebooks", "run", "nothing", "--env", tmp_path, "--notebooks", notebooks)
    assert result.code == 2
    assert "'nothing'" in result.stderr


def note_pid(file: Path) -> str:
    return f"import os, pathlib\npathlib.Path({str(file)!r}).write_text(str(os.getpid()))"


def hashes(root: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*") if path.is_file()}


def ends(pid: int) -> bool:
    """Whether the process has ended within ten seconds."""
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
