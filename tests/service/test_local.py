"""`dlenv serve --runtime local` as a process of its own: what it says, what it answers, how it stops."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

BODY = {"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
INFER = "/v2/models/points/infer"

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGTERM that a process could handle")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


class Process:
    """A running `dlenv serve`, and what it has said so far."""

    def __init__(self, port: int, *options: str) -> None:
        command = [sys.executable, "-m", "dlenv", "serve", "--runtime", "local", "--port", str(port), *options]
        environ = {
            key: value for key, value in os.environ.items() if not key.startswith("DLENV_") or key == "DLENV_ENGINE"
        }
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.lines: list[str] = []
        self.popen = subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        with self.popen.stdout as output:
            self.lines.extend(line.rstrip() for line in output)

    def wait_for(self, start: str, seconds: float = 60) -> str:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for line in list(self.lines):
                if line.startswith(start):
                    return line
            assert self.popen.poll() is None, self.lines
            time.sleep(0.02)
        raise AssertionError(f"it never said {start!r}: {self.lines}")

    def stop(self, number: signal.Signals) -> int:
        self.popen.send_signal(number)
        code = self.popen.wait(30)
        self._reader.join(10)
        return code

    def others(self) -> list[str]:
        """Processes of its session that are still there."""
        listing = subprocess.run(
            ["ps", "-s", str(self.popen.pid), "-o", "pid="], capture_output=True, text=True, check=False
        )
        return listing.stdout.split()


@contextmanager
def process(*options: str) -> Iterator[Process]:
    it = Process(free_port(), *options)
    try:
        yield it
    finally:
        if it.popen.poll() is None:
            it.popen.kill()
            it.popen.wait(10)
        it._reader.join(10)


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


class Client(threading.Thread):
    """Posts without a pause until the service is gone."""

    def __init__(self, it: Process) -> None:
        super().__init__()
        self.it = it
        self.statuses: list[int] = []
        self.problem = ""

    def run(self) -> None:
        with httpx.Client(base_url=self.it.url, timeout=20) as http:
            while True:
                try:
                    self.statuses.append(http.post(INFER, json=BODY).status_code)
                except httpx.ConnectError:
                    return
                except httpx.HTTPError as error:
                    # A connection that still stood in the kernel's queue when the door was closed was never accepted;
                    # but then the door is closed.
                    if not is_refused(self.it.port):
                        self.problem = repr(error)
                    return


@posix
@pytest.mark.parametrize("fronts", [0, 2])
def test_sigterm_under_load_loses_nothing_that_was_accepted(repository: Path, fronts: int) -> None:
    options = ("--models", "points", "--max-delay-us", "2000", "--fronts", str(fronts))
    with process("--repository", str(repository), *options) as it:
        line = it.wait_for("Serving")
        assert line == f"Serving points on {it.url} (cpu); Ctrl-C stops"

        clients = [Client(it) for _ in range(8)]
        for client in clients:
            client.start()
        while sum(len(client.statuses) for client in clients) < 200:
            time.sleep(0.01)

        # One request is half here when the signal comes; two connections have not said anything yet, and one of them
        # does so only when the service accepts no more.
        content = json.dumps(BODY).encode()
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        with (
            socket.create_connection(("127.0.0.1", it.port), timeout=20) as half,
            socket.create_connection(("127.0.0.1", it.port), timeout=20) as silent,
            socket.create_connection(("127.0.0.1", it.port), timeout=20) as last,
        ):
            half.sendall(head + content[:10])
            time.sleep(0.2)
            it.popen.send_signal(signal.SIGTERM)
            it.wait_for("Draining", 10)
            silent.sendall(head + content)
            time.sleep(0.2)
            assert it.popen.poll() is None
            half.sendall(content[10:])
            while not is_refused(it.port):
                time.sleep(0.005)
            last.sendall(head + content)
            answers = [connection.makefile("rb").read() for connection in (half, silent, last)]
        code = it.popen.wait(30)
        for client in clients:
            client.join(30)

        for answer in answers:
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer
            assert b"connection: close" in answer.lower()
            assert b'"model_name":"points"' in answer
        assert [client.problem for client in clients] == [""] * 8
        assert {status for client in clients for status in client.statuses} == {200}
        it._reader.join(10)
        assert (code, it.lines[-1]) == (0, "Stopped.")
        assert is_refused(it.port)
        socket.create_server(("127.0.0.1", it.port)).close()
        assert it.others() == []


@posix
def test_the_shipped_models_without_any_option_and_ctrl_c() -> None:
    with process() as it:
        line = it.wait_for("Serving")
        for name in ("mnist-lenet", "mnist-mlp", "spiral-linear", "spiral-mlp"):
            assert name in line
        assert httpx.get(f"{it.url}/v2/health/ready").status_code == 200
        maps = Path(f"/proc/{it.popen.pid}/maps")
        if maps.exists():
            assert "torchvision" not in maps.read_text()  # none of its libraries is loaded
        assert it.stop(signal.SIGINT) == 0
        assert [each for each in it.lines if each in ("Draining ...", "Stopped.")] == ["Draining ...", "Stopped."]
        assert "Traceback" not in "\n".join(it.lines)
        assert is_refused(it.port)


@posix
def test_a_second_signal_ends_it_at_once_although_a_request_is_still_coming_in(repository: Path) -> None:
    with process("--repository", str(repository), "points") as it:
        it.wait_for("Serving")
        with socket.create_connection(("127.0.0.1", it.port), timeout=20) as half:
            half.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
            time.sleep(0.2)
            it.popen.send_signal(signal.SIGINT)
            it.wait_for("Draining", 10)
            began = time.monotonic()
            assert it.stop(signal.SIGINT) == 130
            assert time.monotonic() - began < 3
        assert is_refused(it.port)
        assert "Traceback" not in "\n".join(it.lines)


def test_serving_the_shipped_models_imports_neither_torchvision_nor_ray() -> None:
    code = """
import asyncio, sys
from dlenv_service.local import run
from dlenv_service.asgi import Service
from dlenv_service.config import Settings
async def main():
    service = Service(Settings(device="cpu"))
    await service.startup()
    heavy = ("torchvision", "ray", "matplotlib", "sklearn")
    print(len(service.host.loaded()) >= 4, [name for name in heavy if name in sys.modules])
    await service.close()
asyncio.run(main())
"""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("DLENV_") or key == "DLENV_ENGINE"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout == "True []\n", done.stderr
