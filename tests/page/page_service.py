"""`dlenv serve` as a process of its own, with the shipped models and a second version of one of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
TRAINED = ROOT / "models/dlenv_models/trained"
MODELS = ("mnist-lenet", "mnist-mlp", "spiral-linear/1", "spiral-linear/2", "spiral-mlp")
READY_WITHIN_S = 120


def add_version(repository: Path) -> None:
    """Publish the shipped `spiral-linear` again, as its version 2."""
    folder = repository / "spiral-linear/2"
    shutil.copytree(TRAINED / "spiral-linear/1", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "version": 2}))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


@contextmanager
def serve(repository: Path, *models: str, **settings: str) -> Iterator[str]:
    """Serve until the block ends; gives the service's URL. `settings` are variables: ``keys="/path"``."""
    add_version(repository)
    port = free_port()
    environ = {key: value for key, value in os.environ.items() if not key.startswith("DLENV_")}
    given = {"engine": "eager", "device": "cpu", "repository": str(repository), **settings}
    environ |= {f"DLENV_{key.upper()}": value for key, value in given.items()}
    command = [sys.executable, "-m", "dlenv", "serve", "--runtime", "local", "--port", str(port), *(models or MODELS)]
    with (repository / "log").open("w+") as log, subprocess.Popen(command, env=environ, stderr=log, stdout=log) as run:
        url = f"http://127.0.0.1:{port}"
        try:
            until = time.monotonic() + READY_WITHIN_S
            while not _ready(url):
                if run.poll() is not None or time.monotonic() > until:
                    raise AssertionError((repository / "log").read_text())
                time.sleep(0.05)
            yield url
        finally:
            run.send_signal(signal.SIGTERM if os.name == "posix" else signal.CTRL_BREAK_EVENT)
            try:
                run.wait(20)
            except subprocess.TimeoutExpired:
                run.kill()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/health/ready").status_code == 200
    except httpx.TransportError:
        return False
