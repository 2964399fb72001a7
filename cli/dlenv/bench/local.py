"""A service of dlenv's own for the time of a measurement: ``dlenv serve --runtime local`` on a free port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import httpx

from dlenv.errors import StartError

_START = 120.0  # seconds; importing PyTorch from a cold disk takes most of them
_STOP = 15.0  # seconds


@contextmanager
def serving(model: str | None) -> Iterator[str]:
    """The URL of a service with this model, or with all; it is stopped at the end, whatever happens.

    Raises:
        StartError: it did not start; the text is its own last line.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    words = ["serve", "--runtime", "local", "--host", "127.0.0.1", "--port", str(port), *([model] if model else [])]
    with tempfile.TemporaryFile() as talk:
        # Ctrl-C is this process's to handle; it ends the service.
        process = subprocess.Popen(
            [sys.executable, "-m", "dlenv", *words],
            stdin=subprocess.DEVNULL,
            stdout=talk,
            stderr=talk,
            start_new_session=True,
            # Its last words become part of an error, which is translated as a whole.
            env={**os.environ, "DLENV_LANG": "en"},
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(process, url, talk)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, talk: IO[bytes]) -> None:
    until = time.monotonic() + _START
    with httpx.Client(trust_env=False) as client:
        while time.monotonic() < until:
            if process.poll() is not None:
                talk.seek(0)
                lines = talk.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
                raise StartError(f"dlenv serve ended before it was ready: {lines[-1].removeprefix('Error: ')}")
            try:
                if client.get(f"{url}/v2/health/ready").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
    raise StartError(f"dlenv serve was not ready within {_START:.0f} s")
