"""`--key` and `DLENV_KEY`: sent to the service as it asks for it, and shown nowhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from dlenv.credentials import bearer
from dlenv.errors import UsageError

Run = Callable[..., Any]
KEY = "dlenv_0123456789-abcdefghijklmnopqrstuvwxyz"


class Handler(BaseHTTPRequestHandler):
    """Answers every question, and notes what was sent along."""

    sent: list[str | None]

    def do_POST(self) -> None:
        self.sent.append(self.headers["Authorization"])
        self.rfile.read(int(self.headers["Content-Length"]))
        good = self.headers["Authorization"] == f"Bearer {KEY}"
        answer = {"predictions": [{"label": "7", "probability": 1.0}]} if good else {"error": "this needs an API key"}
        body = json.dumps(answer).encode()
        self.send_response(200 if good else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Nothing."""


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str | None]]]:
    monkeypatch.delenv("DLENV_KEY", raising=False)
    handler = type("Noting", (Handler,), {"sent": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler.sent
        server.shutdown()
        thread.join()


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import sys

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"[[1, 2]]")))


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("how", ["flag", "variable"])
def test_predict_sends_the_key(
    run: Run, service: tuple[str, list[str | None]], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    url, sent = service
    if how == "variable":
        monkeypatch.setenv("DLENV_KEY", KEY)
    result = run("predict", "points", "-", "--url", url, *(["--key", KEY] if how == "flag" else []))
    assert result.code == 0, result.stderr
    assert sent == [f"Bearer {KEY}"]
    assert KEY not in result.stdout + result.stderr


@pytest.mark.usefixtures("rows")
def test_without_a_key_the_services_own_words_are_shown(run: Run, service: tuple[str, list[str | None]]) -> None:
    url, sent = service
    result = run("predict", "points", "-", "--url", url)
    assert result.code == 1
    assert "this needs an API key" in result.stderr
    assert sent == [None]


@pytest.mark.parametrize("key", ["", "a b", "a\nb", "\x1b[2J", "\u00e9", "a\r\nHost: x"])
def test_what_is_no_key_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(UsageError, match="characters that no key has") as refused:
        bearer(key)
    assert not key or key not in str(refused.value)


@pytest.mark.parametrize("command", ["predict", "bench"])
def test_help_never_shows_the_key(run: Run, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("DLENV_KEY", KEY)
    result = run(command, "--help")
    assert "--key" in result.stdout
    assert KEY not in result.stdout
