"""What the doctor asks of the network: what setup is set to, each address for itself, without anybody's password."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from dlenv.doctor import reach
from dlenv.doctor.facts import Endpoint

Run = Callable[..., Any]

SECRETS = ("s3cr3t", "pa/", "bob", "tok3n")


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of this machine counts, and every address leads to a port that nobody listens on."""
    for name in list(os.environ):
        if name.upper().endswith("_PROXY") or name.startswith(("UV_", "PIP_", "SSL_CERT")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "system"))


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=http.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()


@pytest.fixture
def closed() -> str:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


def points(purpose: str) -> list[Endpoint]:
    return [point for point in reach.look(os.environ) if point.purpose == purpose]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_index_is_the_one_that_setup_takes(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    url = f"http://{server}/simple"
    # Only one that setup would take is asked: pip's is not, where uv has its own.
    pip = write(tmp_path / "config" / "pip" / "pip.conf", f"[global]\nindex-url = http://{server}/pip\n")
    assert [(point.url, point.source, point.ok) for point in points("packages")] == [
        (f"http://{server}/pip", str(pip), True)
    ]
    uv = write(tmp_path / "config" / "uv" / "uv.toml", f"index-url = '{url}'\n")
    assert [(point.url, point.source, point.ok) for point in points("packages")] == [(url, str(uv), True)]
    monkeypatch.setenv("UV_INDEX", f"own=http://{closed}/first")
    (point,) = points("packages")
    assert (point.url, point.source, point.problem) == (f"http://{closed}/first", "UV_INDEX", "unreachable")
    monkeypatch.setenv("UV_DEFAULT_INDEX", str(tmp_path))  # a folder: nothing is to be asked
    assert points("packages") == []


def test_an_address_that_is_none_says_nothing_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://bob:s3cr3t@[bad/")
    found = reach.look(os.environ)
    assert {point.purpose for point in found} == {"packages", "pytorch", "course"}
    (point,) = (point for point in found if point.purpose == "packages")
    assert (point.ok, point.problem) == (False, "invalid")
    assert point.detail.startswith("UV_DEFAULT_INDEX is 'http://***@[bad/', which is no address")


def test_one_that_fails_otherwise_says_nothing_of_the_others(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://{server}/simple")
    ask = reach._ask

    def broken(purpose: Any, url: str, source: str) -> Endpoint:
        if purpose == "course":
            raise RuntimeError("s3cr3t")
        return ask(purpose, url, source)

    monkeypatch.setattr(reach, "_ask", broken)
    found = {point.purpose: point for point in reach.look(os.environ)}
    assert found["packages"].ok
    assert (found["course"].ok, found["course"].detail) == (False, "it can't be asked (RuntimeError)")


@pytest.mark.skipif(find_spec("socksio") is not None, reason="socksio is installed")
def test_what_cannot_be_asked_is_no_warning(run: Run, monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setenv("ALL_PROXY", f"socks5://{server}")
    checks = json.loads(run("doctor", "--only", "network", "--json").stdout)["checks"]
    found = {check["id"]: check for check in checks}
    for name in ("packages", "pytorch", "course"):
        assert found[f"network.{name}"]["status"] == "skip"
        assert "SOCKS proxy" in found[f"network.{name}"]["detail"]
    assert found["network.proxy"]["status"] == "ok"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTPS_PROXY", "http://bob:pa/s3cr3t@proxy.invalid:3128"),
        ("HTTPS_PROXY", "bob:s3cr3t@proxy.invalid:notaport"),
        ("HTTP_PROXY", "http://bob:s3cr3t@127.0.0.1:9/?tok3n=1"),
        ("UV_DEFAULT_INDEX", "http://bob:s3cr3t@127.0.0.1:9/simple?sig=tok3n"),
        ("PIP_INDEX_URL", "http://bob:pa/s3cr3t@127.0.0.1:9/simple"),
    ],
)
def test_nothing_shows_a_password(run: Run, name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    for words in (("--json",), ("--verbose",)):
        result = run("doctor", "--only", "network", *words)
        assert "network.packages" in result.stdout
        for secret in SECRETS:
            assert secret not in result.stdout + result.stderr, secret
