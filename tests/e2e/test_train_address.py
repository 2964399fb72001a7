"""``dlenv train`` and ``dlenv tune`` on a Ray cluster that somebody else keeps, which asks for its token."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dlenv_service.arrangement import free_port
from dlenv_service.processes import end

pytestmark = [
    *(pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)),
    pytest.mark.skipif("DLENV_TEST_ADDRESS" not in os.environ, reason="starts a cluster; DLENV_TEST_ADDRESS=1 runs it"),
]

TOKEN = "0123456789abcdef" * 4
TRAIN = ["train", "mlp", "--data", "digits", "--epochs", "3", "--hidden", "32", "--workers", "2", "--name", "together"]
TUNE = ["tune", "mlp", "--data", "spiral", "--vary", "hidden=4|8", "--trials", "2", "--epochs", "2", "--jobs", "2"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, dict[str, str]]]:
    """The address of a head with three CPUs, and the environment that its token is in."""
    directory = Path(f"/tmp/dlenv-address-{os.getpid()}")  # Ray's sockets lie below it: pytest's paths are too long
    environ = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_TMPDIR": str(directory),
        "OMP_NUM_THREADS": "1",
    }
    port = free_port()
    start = ["start", "--head", f"--port={port}", "--num-cpus=3", "--include-dashboard=false"]
    program = Path(sys.executable).parent / "ray"
    subprocess.run([program, *start, f"--temp-dir={directory}"], env=environ, check=True, capture_output=True)
    try:
        yield f"127.0.0.1:{port}", environ
    finally:
        end(directory, patience_s=2)
        shutil.rmtree(directory, ignore_errors=True)


def call(folder: Path, environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    environ = {**environ, "DLENV_REPOSITORY": str(folder / "repository")}
    line = [sys.executable, "-m", "dlenv", *words]
    return subprocess.run(line, cwd=folder, env=environ, capture_output=True, text=True, check=False)


def test_a_cluster_trains_and_searches_and_goes_on_without_us(
    cluster: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    address, environ = cluster
    done = call(tmp_path, environ, *TRAIN, "--address", address)
    assert done.returncode == 0, done.stderr
    assert "rows/s in all, " in done.stdout
    assert " by each of 2 workers" in done.stdout
    record = json.loads((tmp_path / "runs/together-v1/run.json").read_text())
    assert (record["state"], record["epochs"]) == ("finished", 3)
    speed = record["result"]
    assert speed["rows_per_second_per_worker"] == pytest.approx(speed["rows_per_second"] / 2)
    assert address not in record["command"]
    found = call(tmp_path, environ, *TUNE, "--address", address, "--json")
    assert found.returncode == 0, found.stderr
    assert [trial["epochs"] for trial in json.loads(found.stdout)["trials"]] == [2, 2]
    host, _, port = address.partition(":")
    socket.create_connection((host, int(port)), timeout=5).close()  # it is not ours to stop


def test_without_the_clusters_token_nobody_gets_in(cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, environ = cluster
    done = call(tmp_path, {**environ, "RAY_AUTH_TOKEN": "f" * 64}, *TUNE, "--address", address)
    assert done.returncode == 1
    assert "RAY_AUTH_MODE and RAY_AUTH_TOKEN must be those of the cluster" in done.stderr
    assert "Traceback" not in done.stderr
