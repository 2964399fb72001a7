"""The shipped models, served by one command and asked by another, as the README shows it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

SEVEN = Path(__file__).parents[1] / "data" / "seven.png"


@pytest.fixture(scope="module", autouse=True)
def nobodys_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No models but the shipped ones, whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DLENV_REPOSITORY", raising=False)
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


def dlenv(*words: object) -> str:
    command = [sys.executable, "-m", "dlenv", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "dlenv", "serve", "--runtime", "local", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and process.poll() is None:
                try:
                    if httpx.get(f"{address}/v2/health/ready").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield address
        finally:
            process.send_signal(signal.SIGTERM)
            _, talk = process.communicate(timeout=60)
    assert process.returncode == 0, talk


def test_every_shipped_model_is_served(url: str) -> None:
    index = httpx.post(f"{url}/v2/repository/index").json()
    ready = [entry["name"] for entry in index if entry["state"] == "READY"]
    assert ready == ["mnist-lenet", "mnist-mlp", "spiral-linear", "spiral-mlp"]


@pytest.mark.parametrize("model", ["mnist-lenet", "mnist-mlp"])
def test_a_picture_of_a_seven_is_a_seven_in_process_and_over_http(url: str, model: str) -> None:
    here = json.loads(dlenv("predict", model, SEVEN, "--json"))
    there = json.loads(dlenv("predict", f"{model}/1", SEVEN, "--json", "--url", url))
    assert here["predictions"][0]["label"] == there["predictions"][0]["label"] == "7"
    assert (here["model"], here["version"]) == (there["model"], there["version"]) == (model, 1)
    # The service prints the shortest text of a float32, Python that of the same number as a float64.
    assert there["predictions"][0]["probabilities"] == pytest.approx(here["predictions"][0]["probabilities"], abs=1e-6)


def test_the_spiral_is_solved_by_the_hidden_layer_only(url: str) -> None:
    on_the_arms = {"arm 1": [0.45, 0.0], "arm 2": [-0.7, 0.3], "arm 3": [0.9, -0.2]}
    body = {"inputs": list(on_the_arms.values())}
    answers = {
        model: [each["label"] for each in httpx.post(f"{url}/predict/{model}", json=body).json()["predictions"]]
        for model in ("spiral-mlp", "spiral-linear")
    }
    assert answers["spiral-mlp"] == list(on_the_arms)
    assert answers["spiral-linear"] != list(on_the_arms)
