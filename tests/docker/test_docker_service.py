"""`docker compose up` in a fresh clone: what it serves, to whom, and as whom."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from compose_project import Project, docker
from PIL import Image

from dlenv_service.exposure import is_loopback

ROOT = Path(__file__).parents[2]

PROCESSES = """
import json, pathlib
found = {}
for status in pathlib.Path("/proc").glob("[0-9]*/status"):
    facts = dict(line.split(":", 1) for line in status.read_text().splitlines())
    found[int(facts["Pid"])] = [facts["Uid"].split(), int(facts["CapEff"], 16), int(facts["NoNewPrivs"])]
print(json.dumps(found))
"""
WRITING = """
import errno, pathlib, sys
for folder in sys.argv[1:]:
    try:
        pathlib.Path(folder, "x").write_text("x")
        print(folder, "can be written")
    except OSError as error:
        print(folder, errno.errorcode[error.errno])
"""


@pytest.fixture
def url(project: Project) -> str:
    return f"http://127.0.0.1:{project.variables['DLENV_PORT']}"


def test_tritonclient_asks_from_the_host(project: Project) -> None:
    client_module = pytest.importorskip("tritonclient.http")
    pixels = np.asarray(Image.open(ROOT / "tests" / "data" / "seven.png").convert("L"), np.uint8)
    given = client_module.InferInput("input", [1, 1, 28, 28], "UINT8")
    given.set_data_from_numpy(pixels.reshape(1, 1, 28, 28))
    client = client_module.InferenceServerClient(f"127.0.0.1:{project.variables['DLENV_PORT']}")
    try:
        answer = client.infer("mnist-lenet", [given])
        assert answer.as_numpy("label").tolist() == [7]
    finally:
        client.close()


@pytest.mark.parametrize(("method", "path"), [("GET", "/v2/health/ready"), ("POST", "/predict/spiral-mlp")])
def test_requests_keep_their_ids_by_every_way_through_ray(url: str, method: str, path: str) -> None:
    for given, length in (("mine", 4), ("x" * 129, 32), (None, 32)):
        headers = {} if given is None else {"X-Request-Id": given}
        answer = httpx.request(method, url + path, json={"inputs": [[0, 0]]}, headers=headers, trust_env=False)
        (sent,) = answer.headers.get_list("x-request-id")
        assert len(sent) == length


def test_what_a_replica_logs_is_in_the_containers_log(project: Project, url: str) -> None:
    answer = httpx.post(
        f"{url}/v2/repository/models/spiral-linear/load", json={}, headers={"X-Request-Id": "seen"}, trust_env=False
    )
    assert answer.status_code == 200
    until = time.monotonic() + 10
    while not any("admin" in line and "seen" in line for line in project.compose("logs").stdout.splitlines()):
        assert time.monotonic() < until
        time.sleep(0.2)


def connects(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), 2):
            return True
    except (ConnectionRefusedError, TimeoutError):
        return False


def test_only_the_service_answers_from_outside(project: Project) -> None:
    container = project.container()
    assert [port for port, at in container.facts["NetworkSettings"]["Ports"].items() if at] == ["8000/tcp"]
    listening = container.listening()
    # Ray's own are among them.
    assert len([each for each in listening if each.protocol == "tcp"]) > 5
    # A datagram's port tells nobody whether it is open, so these have to be on loopback.
    assert [each for each in listening if each.protocol == "udp" and not is_loopback(each.address)] == []
    # Every one is tried, whatever address it says: the host reaches the container's on all ports.
    answering = {each.port for each in listening if each.protocol == "tcp" and connects(container.address, each.port)}
    assert 8000 in answering
    # Serve's own proxy, which it insists on, knows nobody but its own machine.
    others = answering - {8000}
    assert len(others) <= 1
    for port in others:
        answer = httpx.get(f"http://{container.address}:{port}/v2/health/ready", trust_env=False)
        assert answer.status_code == 403


def test_ray_asks_for_a_token(project: Project) -> None:
    code = """
import os, pathlib
for file in pathlib.Path("/proc").glob("[0-9]*/environ"):
    words = dict(word.split("=", 1) for word in file.read_text().split("\\0") if "=" in word)
    if words.get("RAY_AUTH_MODE") == "token" and len(words.get("RAY_AUTH_TOKEN", "")) >= 32:
        print(file.parent.name, pathlib.Path(file.parent, "cmdline").read_text().split("\\0")[0])
"""
    assert "gcs_server" in project.container().python(code).stdout


def test_nobody_is_root_and_nothing_can_be_gained(project: Project) -> None:
    processes = json.loads(project.container().python(PROCESSES).stdout)
    assert len(processes) > 5
    for uids, capabilities, no_new_privileges in processes.values():
        assert "0" not in uids
        assert (capabilities, no_new_privileges) == (0, 1)


def test_the_root_is_read_only(project: Project) -> None:
    folders = ["/", "/opt/dlenv", "/etc", "/usr/local/bin", "/home", "/models"]
    code = f"import sys; sys.argv[1:] = {folders}\n{WRITING}"
    assert project.container().python(code).stdout.split("\n")[:-1] == [f"{folder} EROFS" for folder in folders]


def test_models_become_onnx_in_the_volume(project: Project, url: str) -> None:
    until = time.monotonic() + 180
    files = "import pathlib; print(len(list(pathlib.Path('/var/cache/dlenv/onnx').glob('*.onnx'))))"
    while project.container().python(files).stdout.strip() != "4":
        assert time.monotonic() < until
        time.sleep(1)
    assert httpx.get(f"{url}/v2/health/ready", trust_env=False).status_code == 200


def test_the_image_has_neither_compiler_nor_secret(project: Project, image: str, secret: str) -> None:
    code = """
import pathlib, shutil
print([name for name in ("cc", "gcc", "g++", "clang", "uv") if shutil.which(name)])
left = [pathlib.Path(path).expanduser() for path in ("/src", "/bootstrap", "/var/cache/uv", "~root/.cache")]
print([str(path) for path in left if path.exists()])
print(len(list(pathlib.Path("/opt/dlenv").glob("lib/*/site-packages/triton"))))
"""
    looked = docker("run", "--rm", "--user", "0:0", "--entrypoint", "/opt/dlenv/bin/python", image, "-c", code)
    assert looked.stdout.split("\n")[:-1] == ["[]", "[]", "0"]
    found = docker("history", "--no-trunc", image).stdout + docker("image", "inspect", image).stdout
    assert "HEALTHCHECK" in found  # so that what is looked through is what was meant
    assert secret not in found
    settings = docker("run", "--rm", "--entrypoint", "sh", image, "-c", "cat /etc/pip.conf 2>/dev/null || true")
    assert secret not in settings.stdout


def test_what_is_trained_on_the_host_is_loaded_while_it_runs(project: Project, url: str, tmp_path: Path) -> None:
    started = project.container().facts["State"]["StartedAt"]
    command = [sys.executable, "-m", "dlenv", "train", "linear", "--data", "spiral", "--name", "fresh", "--epochs", "2"]
    repository = project.variables["DLENV_MODELS"]
    subprocess.run([*command, "--repository", repository], check=True, cwd=tmp_path, capture_output=True)
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        assert client.get("/v2/models/fresh").status_code == 404
        loaded = client.post("/v2/repository/models/fresh/load", json={})
        assert loaded.status_code == 200, loaded.text
        answer = client.post("/predict/fresh", json={"inputs": [[0.1, 0.2]]})
    assert answer.json()["model"] == "fresh"
    assert project.container().facts["State"]["StartedAt"] == started


def test_an_address_that_others_reach_needs_keys(image: str) -> None:
    done = docker("run", "--rm", "-e", "DLENV_ADDRESS=0.0.0.0", image, check=False)
    assert done.returncode == 2
    assert "published at 0.0.0.0" in done.stderr
    assert "Traceback" not in done.stderr


def test_too_little_memory_is_said_at_once(image: str) -> None:
    done = docker("run", "--rm", "--memory", "600m", "-e", "DLENV_ADDRESS=127.0.0.1", image, check=False)
    assert done.returncode == 1
    assert "MiB of memory at least, and here are 600; raise the limit (in Compose: DLENV_MEMORY)" in done.stderr
    # Without Ray, as it says, there is enough: only the repository, which is not there, keeps it from starting.
    words = ("-e", "DLENV_ADDRESS=127.0.0.1", "-e", "DLENV_RUNTIME=local", "-e", "DLENV_REPOSITORY=/none")
    done = docker("run", "--rm", "--memory", "600m", *words, image, check=False)
    assert "there is no model repository at /none" in done.stderr


def test_keys_are_a_secret_file(new_project: Callable[..., Project], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    made = subprocess.run(
        [sys.executable, "-m", "dlenv", "keys", "add", "tester", "--file", str(keys)], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    keys.chmod(0o644)
    it = new_project(DLENV_KEYS_FILE=str(keys), DLENV_ADDRESS="0.0.0.0")
    it.up()
    url = f"http://127.0.0.1:{it.variables['DLENV_PORT']}/predict/spiral-mlp"
    body = {"inputs": [[0.1, 0.2]]}
    assert httpx.post(url, json=body, trust_env=False).status_code == 401
    key = made.stdout.split()[-1]
    answer = httpx.post(url, json=body, headers={"Authorization": f"Bearer {key}"}, trust_env=False)
    assert answer.status_code == 200, answer.text
    it.compose("down", "--volumes", "--timeout", 1)
