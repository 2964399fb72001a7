"""`dlenv serve`: what it refuses before it serves, each with one line, the right exit code and no traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

Run = Callable[..., Any]
HERE = ("serve", "--runtime", "local", "--device", "cpu")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in list(os.environ):
        if key.startswith("DLENV_"):
            monkeypatch.delenv(key)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def one_line(text: str) -> str:
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("Error: ")
    return lines[0]


# Misuse: exit code 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-batch", "0"], ["--max-batch 0", "1"]),
        (["--port", "70000"], ["--port 70000", "65535"]),
        (["--max-delay-us", "-1"], ["--max-delay-us -1", "0"]),
        (["--max-body-bytes", "5"], ["--max-body-bytes 5", "1024"]),
        (["--max-queue-rows", "5"], ["max_queue_rows 5", "max_rows 1024", "raise it"]),
        (["--config", "no.yaml"], ["--config no.yaml", "No such file"]),
    ],
)
def test_settings_that_cannot_be_used(run: Run, options: list[str], words: list[str]) -> None:
    result = run("serve", *options)
    assert (result.code, result.stdout) == (2, "")
    for word in words:
        assert word in one_line(result.stderr)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-batch", "many"], ["--max-batch", "'many'", "integer"]),
        (["--device", "tpu"], ["--device", "'tpu'", "'auto', 'cpu', 'cuda'"]),
        (["--runtime", "rya"], ["--runtime", "'rya'", "'ray', 'local'"]),
        (["--max-bach", "3"], ["No such option", "--max-bach", "--max-batch"]),
        (["--port"], ["--port", "requires an argument"]),
    ],
)
def test_options_that_cannot_be_read(run: Run, options: list[str], words: list[str]) -> None:
    result = run("serve", *options)
    assert (result.code, result.stdout) == (2, "")
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_variable_and_an_unknown_key_of_the_file(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "dlenv.yaml"
    path.write_text("max_bach: 3\n")
    result = run("serve", "--config", path)
    assert result.code == 2
    assert one_line(result.stderr) == f"Error: {path}: unknown setting 'max_bach'; did you mean max_batch?"
    monkeypatch.setenv("DLENV_CONFIG", str(path))
    assert "unknown setting 'max_bach'" in one_line(run("serve").stderr)
    monkeypatch.delenv("DLENV_CONFIG")
    monkeypatch.setenv("DLENV_MAX_BACH", "3")
    result = run("serve")
    assert result.code == 2
    assert "unknown setting 'DLENV_MAX_BACH'; did you mean DLENV_MAX_BATCH?" in one_line(result.stderr)


def test_a_bad_variable_is_named_with_its_value(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLENV_PORT", "http")
    result = run("serve")
    assert result.code == 2
    assert "DLENV_PORT 'http'" in one_line(result.stderr)


# What can't be done: exit code 1


def test_a_port_in_use(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run(*HERE, "--port", port)
    assert (result.code, result.stdout) == (1, "")
    assert one_line(result.stderr) == (
        f"Error: can't listen on 127.0.0.1:{port}: the port is in use; stop what listens there or give another --port"
    )


def test_a_host_that_is_not_here(run: Run) -> None:
    result = run(*HERE, "--host", "203.0.113.1", "--insecure", "--port", free_port())
    assert result.code == 1
    note, error = result.stderr.splitlines()
    assert note.startswith("Note: no key is asked for; whoever reaches http://203.0.113.1:")
    assert error.startswith("Error: can't listen on 203.0.113.1:")
    assert error.endswith("give another --host")


def test_a_repository_that_is_none(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    for path, words in (
        (tmp_path / "missing", "there is no model repository"),
        (tmp_path / "other" / "notes.txt", "is a file"),
        (tmp_path, "is not a model repository"),
    ):
        result = run(*HERE, "--port", free_port(), "--repository", path)
        assert (result.code, result.stdout) == (1, "")
        text = one_line(result.stderr)
        assert str(path) in text
        assert words in text


def test_a_model_that_is_unknown(run: Run) -> None:
    result = run(*HERE, "--port", free_port(), "--models", "minst-mlp")
    assert result.code == 1
    assert "there is no model 'minst-mlp'" in one_line(result.stderr)
    assert "did you mean 'mnist-mlp'" in one_line(result.stderr)


@pytest.mark.parametrize("name", ["spiral-mlp/99", "spiral-mlp/x", "spiral-mlp/"])
def test_a_version_that_is_unknown(run: Run, name: str) -> None:
    result = run(*HERE, "--port", free_port(), name)
    assert result.code == 1
    assert "spiral-mlp" in one_line(result.stderr)
    assert "version" in one_line(result.stderr)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here; runs on machines without one")
def test_a_gpu_that_is_not_there(run: Run) -> None:
    result = run("serve", "--runtime", "local", "--device", "cuda", "--port", free_port())
    assert result.code == 1
    assert "--device cuda: " in one_line(result.stderr)
    assert "use --device auto" in one_line(result.stderr)


# What is served


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to itself")
@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["spiral-mlp", "spiral-linear/1"], "spiral-linear, spiral-mlp"),
        (["--models", "spiral-mlp", "--models", "mnist-mlp"], "mnist-mlp, spiral-mlp"),
        (["--models", "spiral-mlp,mnist-mlp"], "mnist-mlp, spiral-mlp"),
    ],
)
def test_models_are_named_as_words_or_options(run: Run, words: list[str], names: str) -> None:
    port = free_port()
    ready: list[int] = []

    def ask_and_stop() -> None:
        for _ in range(400):
            try:
                ready.append(httpx.get(f"http://127.0.0.1:{port}/v2/health/ready").status_code)
                break
            except httpx.HTTPError:
                time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    asking = threading.Thread(target=ask_and_stop)
    asking.start()
    result = run(*HERE, "--port", port, "--log-level", "error", *words)
    asking.join()
    assert ready == [200]
    assert (result.code, result.stdout) == (0, "")
    assert result.stderr.splitlines() == [
        f"Serving {names} on http://127.0.0.1:{port} (cpu); Ctrl-C stops",
        "Draining ...",
        "Stopped.",
    ]


def test_a_package_that_is_missing_names_the_command_that_installs_it() -> None:
    script = "import sys; sys.modules['pydantic'] = None; from dlenv.cli import main; main(['serve'])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: this needs pydantic, which is not installed here; activate an environment")
    assert result.stderr.endswith("or pip install 'dlenv[serve]'\n")
