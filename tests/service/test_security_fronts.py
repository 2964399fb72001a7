"""Keys where fronts read HTTP: each process has its own eye on the file, and all say the same."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from test_local import BODY, INFER, Process, posix, process

from dlenv_service import keyfile

pytestmark = posix


@dataclass
class Fronted:
    """A service with two fronts, and its keys."""

    it: Process
    path: Path
    keys: dict[str, str]

    def client(self, name: str | None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.keys[name]}"} if name else {}
        return httpx.Client(base_url=self.it.url, headers=headers, timeout=20)


@pytest.fixture(scope="module")
def fronted(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fronted]:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    keys = {
        "asker": keyfile.add(path, "asker", ("infer",)),
        "slow": keyfile.add(path, "slow", ("infer",), 2),
        "guest": keyfile.add(path, "guest", ("infer",)),
        "operator": keyfile.add(path, "operator", ("infer", "admin")),
    }
    words = ["--repository", str(repository), "--models", "points", "--fronts", "2", "--keys", str(path)]
    with process(*words, "--header-timeout-ms", "700") as it:
        it.wait_for("Serving")
        yield Fronted(it, path, keys)


def test_who_may_and_who_may_not(fronted: Fronted) -> None:
    for _ in range(4):  # each client is another connection, which the fronts share
        with fronted.client(None) as nobody, fronted.client("asker") as asker, fronted.client("operator") as operator:
            assert nobody.get("/v2/health/ready").status_code == 200
            for client, infer, read, load in (
                (nobody, 401, 401, 401),
                (asker, 200, 200, 403),
                (operator, 200, 200, 200),
            ):
                for _ in range(3):  # on the quick way too
                    assert client.post(INFER, json=BODY).status_code == infer
                assert client.get("/v2/models/points").status_code == read
                assert client.post("/v2/repository/models/points/load").status_code == load
            assert "www-authenticate" in nobody.post(INFER, json=BODY).headers


def test_the_body_is_not_waited_for(fronted: Fronted) -> None:
    for path in (INFER, "/predict/points", "/v2/repository/models/points/load"):
        with socket.create_connection(("127.0.0.1", fronted.it.port), timeout=10) as connection:
            connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode())
            assert connection.recv(4096).startswith(b"HTTP/1.1 401 "), path


def test_nor_is_it_where_the_key_lacks_the_scope(fronted: Fronted) -> None:
    with socket.create_connection(("127.0.0.1", fronted.it.port), timeout=10) as connection:
        path, key = "/v2/repository/models/points/load", fronted.keys["asker"]
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 9000\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 403 ")
    until = time.monotonic() + 5
    while not any(
        "admin caller='asker'" in line and path in line and "status=403" in line for line in fronted.it.lines
    ):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_the_limit_holds_on_a_connection(fronted: Fronted) -> None:
    with fronted.client("slow") as client:
        statuses = [client.post(INFER, json=BODY).status_code for _ in range(8)]
    assert statuses[:2] == [200, 200]
    assert 429 in statuses


def test_a_removed_key_stops_working_within_two_seconds(fronted: Fronted) -> None:
    with fronted.client("guest") as one, fronted.client("guest") as other:
        for client in (one, other):
            assert [client.post(INFER, json=BODY).status_code for _ in range(3)] == [200] * 3
        keyfile.remove(fronted.path, "guest")
        time.sleep(2)
        for client in (one, other):
            assert client.post(INFER, json=BODY).status_code == 401
            assert client.get("/v2/models/points").status_code == 401


def test_the_audit_line_names_the_client_and_not_the_front(fronted: Fronted) -> None:
    # A proxy on this machine may say for whom it asks (uvicorn's `forwarded_allow_ips`).
    for headers, client in (({}, "127.0.0.1"), ({"X-Forwarded-For": "203.0.113.9"}, "203.0.113.9")):
        with fronted.client("operator") as http:
            http.post("/v2/repository/models/points/load", headers=headers).raise_for_status()
        until = time.monotonic() + 5
        while not any(f"admin caller='operator' client='{client}'" in line for line in fronted.it.lines):
            assert time.monotonic() < until
            time.sleep(0.05)
    assert not any(key in line for key in fronted.keys.values() for line in fronted.it.lines)


def test_half_a_head_has_its_time_at_a_front_too(fronted: Fronted) -> None:
    with socket.create_connection(("127.0.0.1", fronted.it.port), timeout=10) as connection:
        connection.sendall(b"POST / HT")
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
