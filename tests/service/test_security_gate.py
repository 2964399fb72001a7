"""What a request has to pass before its body is looked at: key, address, origin; on both ways through the service."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from click.testing import CliRunner
from serving import Running

from dlenv.commands.bench import command as bench
from dlenv_service import keyfile
from dlenv_service.access import entry
from dlenv_service.protocol import InferenceProtocol
from dlenv_service.routes import ENTRIES, ROUTES, Route

Serve = Callable[..., AbstractContextManager[Running]]

INFER = "/v2/models/points/infer"
BODY = {"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}


@dataclass
class Guarded:
    """A service with keys, and the keys."""

    running: Running
    path: Path
    keys: dict[str, str]

    def ask(self, method: str, path: str, name: str | None = None, **options: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.keys[name]}"} if name else {}
        return self.running.client.request(method, path, headers=headers, **options)  # type: ignore[arg-type]


SCOPES = {"reader": (), "asker": ("infer",), "changer": ("admin",), "operator": ("infer", "admin")}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.toml"


@pytest.fixture(scope="module")
def keys(path: Path) -> dict[str, str]:
    return {name: keyfile.add(path, name, scopes) for name, scopes in SCOPES.items()}  # type: ignore[arg-type]


@pytest.fixture
def guarded(serve: Serve, path: Path, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    monkeypatch.setattr(InferenceProtocol, "heads", {})
    with serve(keys=path, models=("points",)) as running:
        yield Guarded(running, path, keys)


def filled(route: Route) -> str:
    return route.path.replace("{model}", "points").replace("{version}", "1").replace("{file}", "page.js")


# The table


def test_each_route_needs_what_is_meant_for_it() -> None:
    opened = {route.path for route in ROUTES if entry(route.path).access == "open"}
    assert opened == {"/", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready", "/page/{file}"} & {
        route.path for route in ROUTES
    }
    changes = {route.path for route in ROUTES if entry(route.path).access == "admin"}
    assert changes == {"/v2/repository/models/{model}/load", "/v2/repository/models/{model}/unload"}
    asks = {route.path for route in ROUTES if entry(route.path).access == "infer"}
    assert asks == {route.path for route in ROUTES if "/infer" in route.path or "predict" in route.path}
    management = {route.path for route in ROUTES if entry(route.path).management}
    assert management == {route.path for route in ROUTES if "repository" in route.path or "stats" in route.path} | {
        "/metrics"
    }


def test_a_handler_has_the_same_needs_on_all_its_paths() -> None:
    for route in ROUTES:
        assert ENTRIES[route.handler] == entry(route.path)


@pytest.mark.parametrize("path", ["/new", "/v2/new", "/v2/models/{model}/secret", "/pages"])
def test_a_path_that_nobody_thought_of_needs_a_key(path: str) -> None:
    assert entry(path).access == "read"


def test_each_route_without_a_key_and_with_each(guarded: Guarded) -> None:
    allowed = {
        "open": {None, *SCOPES},
        "read": set(SCOPES),
        "infer": {"asker", "operator"},
        "admin": {"changer", "operator"},
    }
    for route in ROUTES:
        access = entry(route.path).access
        for name in (None, *SCOPES):
            status = guarded.ask(route.method, filled(route), name).status_code
            what = (route.method, route.path, name, status)
            if name in allowed[access]:
                assert status not in (401, 403), what
            else:
                assert status == (401 if name is None else 403), what
        guarded.ask("POST", "/v2/repository/models/points/load", "changer").raise_for_status()


def test_a_refusal_says_how_to_get_in_and_nothing_else(guarded: Guarded) -> None:
    without = guarded.ask("GET", "/v2/models/points")
    assert without.status_code == 401
    assert without.headers["www-authenticate"] == 'Bearer realm="dlenv"'
    assert without.json() == {"error": "this needs an API key; send the header Authorization: Bearer KEY"}
    wrong = guarded.running.client.get("/v2/models/points", headers={"Authorization": "Bearer sesame"})
    assert wrong.status_code == 401
    assert wrong.headers["www-authenticate"] == 'Bearer realm="dlenv", error="invalid_token"'
    assert "sesame" not in wrong.text
    # Whether there is such a model is told only to who may know.
    assert guarded.ask("GET", "/v2/models/nobody").json() == without.json()
    assert guarded.ask("GET", "/v2/models/nobody", "reader").status_code == 404
    lacks = guarded.ask("POST", INFER, "reader", json=BODY)
    assert lacks.json()["error"].startswith("the key 'reader' lacks the scope 'infer'")


def test_several_authorization_headers_are_none(guarded: Guarded) -> None:
    good = ("Authorization", f"Bearer {guarded.keys['asker']}")
    for headers in ([good, ("Authorization", "Bearer x")], [good, good]):
        for _ in range(3):
            response = guarded.running.client.post(INFER, json=BODY, headers=headers)
            assert response.status_code == 401
            assert "several" in response.json()["error"]


# Before the body, on both ways


def message(key: str | None, *, length: int | None = None, body: bytes = b"") -> bytes:
    lines = [f"POST {INFER} HTTP/1.1", "Host: here", f"Content-Length: {len(body) if length is None else length}"]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def connect(running: Running) -> socket.socket:
    host, _, port = running.address.partition(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(1 << 16)
        assert more, data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    while len(body) < int(headers["content-length"]):
        body += connection.recv(1 << 16)
    return int(first.split()[1]), headers, body


@pytest.mark.parametrize(("name", "status"), [(None, 401), ("reader", 403)])
def test_the_body_is_not_waited_for(guarded: Guarded, name: str | None, status: int) -> None:
    key = guarded.keys[name] if name else None
    with connect(guarded.running) as connection:
        connection.sendall(message(key, length=1_000_000))
        assert answer(connection)[0] == status
    with connect(guarded.running) as connection:  # a head that is known, its key gone meanwhile: nothing of it is read
        connection.sendall(message(key, length=1_000_000).replace(b"Host: here", b"Host: here\r\nExpect: 100-continue"))
        assert answer(connection)[0] == status  # and not 100


CONTENT = json.dumps(BODY).encode()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The statuses that were answered on the quick way."""
    statuses: list[int] = []
    answered = InferenceProtocol.__dict__["answered"]

    def note(self: InferenceProtocol, response: object, *words: object, **options: object) -> None:
        statuses.append(response.status)  # type: ignore[attr-defined]
        answered(self, response, *words, **options)

    monkeypatch.setattr(InferenceProtocol, "answered", note)
    return statuses


def test_a_key_that_is_removed_stops_working_on_the_quick_way_too(guarded: Guarded, quick: list[int]) -> None:
    key = keyfile.add(guarded.path, "guest", ("infer",))
    with connect(guarded.running) as connection:
        until = time.monotonic() + 2
        while True:
            connection.sendall(message(key, body=CONTENT))
            status, _, body = answer(connection)
            if status == 200 or time.monotonic() > until:
                break
            time.sleep(0.05)
        assert status == 200, body
        for _ in range(2):
            connection.sendall(message(key, body=CONTENT))
            assert answer(connection)[0] == 200
        assert quick == [200]

        keyfile.remove(guarded.path, "guest")
        removed = time.monotonic()
        while status == 200:
            assert time.monotonic() < removed + 2
            connection.sendall(message(key, body=CONTENT))
            status, headers, _ = answer(connection)
            time.sleep(0.02)
        assert status == 401
        assert headers["www-authenticate"].startswith("bearer")
        assert quick[-1] == 401
        connection.sendall(message(guarded.keys["asker"], body=CONTENT))  # the connection goes on to work
        assert answer(connection)[0] == 200


def test_the_limit_holds_on_the_quick_way(serve: Serve, tmp_path: Path, quick: list[int]) -> None:
    path = tmp_path / "keys.toml"
    slow, fast = keyfile.add(path, "slow", ("infer",), 5), keyfile.add(path, "fast", ("infer",))
    with serve(keys=path, models=("points",)) as running, connect(running) as connection:
        statuses = []
        for _ in range(12):
            connection.sendall(message(slow, body=CONTENT))
            status, headers, _ = answer(connection)
            statuses.append(status)
        assert statuses[:5] == [200] * 5
        assert statuses.count(429) >= 5
        assert headers["retry-after"] == "1"
        assert 429 in quick
        connection.sendall(message(fast, body=CONTENT))
        assert answer(connection)[0] == 200
        time.sleep(1)
        connection.sendall(message(slow, body=CONTENT))
        assert answer(connection)[0] == 200


def test_heads_without_a_known_key_are_not_kept(guarded: Guarded) -> None:
    with connect(guarded.running) as connection:
        for key in (None, "sesame", "x" * 43):
            for _ in range(3):
                connection.sendall(message(key, body=CONTENT))
                assert answer(connection)[0] == 401
    assert InferenceProtocol.heads == {}


def test_keys_may_not_be_told_apart_by_other_clients_heads(guarded: Guarded, quick: list[int]) -> None:
    """A head that is kept lets in exactly the key that it holds."""
    with connect(guarded.running) as connection:
        for _ in range(3):
            connection.sendall(message(guarded.keys["asker"], body=CONTENT))
            assert answer(connection)[0] == 200
            connection.sendall(message(guarded.keys["reader"], body=CONTENT))
            assert answer(connection)[0] == 403
            connection.sendall(message(None, body=CONTENT))
            assert answer(connection)[0] == 401
    assert set(quick) == {200, 403}


def test_tritonclient_sends_the_key_as_a_header(guarded: Guarded) -> None:
    client = triton.InferenceServerClient(guarded.running.address)
    headers = {"Authorization": f"Bearer {guarded.keys['operator']}"}
    value = triton.InferInput("input", [1, 2], "FP32")
    value.set_data_from_numpy(np.array([[1, 2]], np.float32))
    try:
        assert client.is_server_ready()
        for _ in range(3):
            assert client.infer("points", [value], headers=headers).as_numpy("label").shape == (1,)
        assert client.get_model_metadata("points", headers=headers)["name"] == "points"
        assert client.get_inference_statistics(headers=headers)["model_stats"]
        client.load_model("points", headers=headers)
        with pytest.raises(triton.InferenceServerException, match="needs an API key"):
            client.infer("points", [value])
    finally:
        client.close()


test_tritonclient_sends_the_key_as_a_header = pytest.mark.filterwarnings(
    "ignore::ResourceWarning:gevent", "ignore::DeprecationWarning:gevent"
)(test_tritonclient_sends_the_key_as_a_header)


def test_bench_measures_with_a_key(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [guarded.running.url, "--model", "points", "--connections", "2", "--rows", "1", "--duration", "0.3"]
    words += ["--tool", "own", "--json"]
    monkeypatch.setenv("DLENV_KEY", guarded.keys["asker"])
    done = CliRunner().invoke(bench, words)
    assert not done.exception, done.output
    assert '"failed": {}' in done.output
    assert '"answered": 0' not in done.output
    assert guarded.keys["asker"] not in done.output
    monkeypatch.delenv("DLENV_KEY")
    assert "needs an API key" in str(CliRunner().invoke(bench, words).exception)


def test_many_keys_at_once(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    keys = [keyfile.add(path, f"key-{i}", ("infer",)) for i in range(8)]
    with serve(keys=path, models=("points",)) as running:
        statuses: list[int] = []

        def ask(key: str) -> None:
            for _ in range(20):
                response = httpx.post(running.url + INFER, json=BODY, headers={"Authorization": f"Bearer {key}"})
                statuses.append(response.status_code)

        threads = [threading.Thread(target=ask, args=(key,)) for key in keys]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses == [200] * 160


# The audit log


def test_each_admin_action_leaves_a_line(
    guarded: Guarded, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "level", logging.ERROR)  # whatever the log's level
    guarded.ask("POST", "/v2/repository/models/points/load", "operator").raise_for_status()
    guarded.ask("POST", "/v2/repository/models/no%0aadmin%20x'%1b[2J/unload", "changer")
    guarded.ask("POST", "/v2/repository/models/points/load", "asker")
    guarded.ask("POST", "/v2/repository/models/points/load")
    guarded.ask("POST", "/v2/repository/index", "operator")
    where = "client='127.0.0.1' method='POST'"
    assert [record.getMessage() for record in caplog.records if record.name == "dlenv.audit"] == [
        f"admin caller='operator' {where} path='/v2/repository/models/points/load' status=200",
        rf"""admin caller='changer' {where} path="/v2/repository/models/no\nadmin x'\x1b[2J/unload" status=404""",
        f"admin caller='asker' {where} path='/v2/repository/models/points/load' status=403",
    ]


def test_without_keys_the_line_says_that_nobody_was_asked(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    with serve(models=("points",)) as running:
        running.client.post("/v2/repository/models/points/load").raise_for_status()
    assert any(line.startswith("admin caller='-' ") for line in caplog.messages)


def test_the_audit_log_can_be_a_file_which_may_be_rotated(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with serve(models=("points",), audit_log=path) as running:
        running.client.post("/v2/repository/models/points/load").raise_for_status()
        assert path.stat().st_mode & 0o077 == 0
        first = path.read_text()
        path.rename(tmp_path / "audit.log.1")
        running.client.post("/v2/repository/models/points/load").raise_for_status()
    assert first.count("\n") == path.read_text().count("\n") == 1
    assert "status=200" in first


# Pages of other origins

ORIGIN = "https://example.org"


def test_no_origin_is_allowed_unless_configured(guarded: Guarded) -> None:
    client = guarded.running.client
    response = client.get("/v2/health/ready", headers={"Origin": ORIGIN})
    assert not [name for name in response.headers if name.startswith("access-control")]
    asked = client.options(INFER, headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"})
    assert asked.status_code == 405
    assert not [name for name in asked.headers if name.startswith("access-control")]


def test_a_configured_origin_may_ask_with_a_key(serve: Serve, path: Path, keys: dict[str, str]) -> None:
    with serve(models=("points",), keys=path, cors_origin=(ORIGIN, "http://localhost:3000")) as running:
        client = running.client
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        for origin in (ORIGIN, "http://localhost:3000"):
            allowed = client.options(INFER, headers={"Origin": origin, **asks})
            assert allowed.status_code == 200
            assert allowed.headers["access-control-allow-origin"] == origin
            assert "authorization" in allowed.headers["access-control-allow-headers"]
            assert "access-control-allow-credentials" not in allowed.headers
            credentials = {"Origin": origin, "Authorization": f"Bearer {keys['operator']}"}
            for _ in range(3):  # on the quick way nobody else's headers are sent
                answered = client.post(INFER, json=BODY, headers=credentials)
                assert answered.status_code == 200
                assert answered.headers["access-control-allow-origin"] == origin
                assert answered.headers["vary"] == "origin"
            assert client.post("/v2/repository/models/points/load", headers=credentials).status_code == 200
            refused = client.post(INFER, json=BODY, headers={"Origin": origin})
            assert refused.status_code == 401
            assert refused.headers["access-control-allow-origin"] == origin  # so that the page can read why
        for origin in ("https://example.com", "https://example.org.evil", "null", "http://example.org"):
            other = client.options(INFER, headers={"Origin": origin, **asks})
            assert other.status_code == 405
            assert "access-control-allow-origin" not in other.headers
            assert "access-control-allow-origin" not in client.get("/v2", headers={"Origin": origin}).headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://rebound.example:8000", "Host": "rebound.example:8000"}, 403),
        ({"Origin": "http://127.0.0.1:8000", "Host": "127.0.0.1:8000"}, 200),
        ({"Origin": "http://[::1]:8000", "Host": "[::1]:8000"}, 200),
        ({"Origin": "http://localhost:8000", "Host": "localhost:8000"}, 200),
        ({"Origin": "http://[", "Host": "["}, 403),
        ({"Host": "models.example"}, 200),  # no browser
    ],
)
def test_a_name_that_points_here_lets_no_page_change_models(serve: Serve, headers: dict[str, str], status: int) -> None:
    with serve(models=("points",)) as running:
        response = running.client.post("/v2/repository/models/points/load", headers=headers)
    assert response.status_code == status
