"""Request ids on every answer, and log lines that name them, as text and as JSON."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Running
from test_local import process

from dlenv_service import logs, request_id
from dlenv_service.config import Settings

BODY = {"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
INFER = "/v2/models/points/infer"


@pytest.mark.parametrize("given", ["a", "0af7651916cd43dd-8448eb211c80319c", "x y:/{}", "~" * 128])
@pytest.mark.parametrize(("method", "path"), [("POST", INFER), ("GET", "/v2"), ("GET", "/nothing/here")])
def test_a_clients_id_comes_back(running: Running, method: str, path: str, given: str) -> None:
    for _ in range(2):  # the second infer request could take the quick way
        answer = running.client.request(method, path, json=BODY, headers={"X-Request-Id": given})
        assert answer.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize("given", [b"", b"x" * 129, "ü".encode(), b"a\tb"])
def test_an_id_that_is_no_good_is_replaced(running: Running, given: bytes) -> None:
    answer = httpx.post(running.url + INFER, json=BODY, headers=[(b"X-Request-Id", given)])
    assert answer.status_code == 200
    (made,) = answer.headers.get_list("x-request-id")
    assert len(made) == 32
    assert made.isalnum()


def test_two_ids_are_none(running: Running) -> None:
    answer = httpx.get(running.url + "/v2", headers=[("X-Request-Id", "a"), ("X-Request-Id", "b")])
    assert len(answer.headers["x-request-id"]) == 32


def test_each_answer_has_an_id_of_its_own(running: Running) -> None:
    answers = [running.client.post(INFER, json=BODY) for _ in range(4)]
    answers += [running.client.post(INFER, json={}) for _ in range(4)]
    answers += [running.client.get(path) for path in ("/metrics", "/v2/health/ready", "/nothing", "/")]
    assert {answer.status_code for answer in answers} >= {200, 400, 404}
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)


def test_behind_serve_the_id_is_sent_once(running: Running) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    for given, good in ((b"mine", True), (b"x" * 129, False)):
        scope: Any = {
            "type": "http", "method": "GET", "path": "/v2/health/live", "query_string": b"",
            "headers": [(b"x-request-id", given)],
        }  # fmt: skip
        request_id.hand_over(scope)
        ((name, value),) = scope["headers"]
        assert name == b"x-request-id"
        assert (value == given) is good
        running.run(request_id.behind_serve(running.service)(scope, receive, send))
        assert sent[0]["status"] == 200
        assert b"x-request-id" not in dict(sent[0]["headers"])
        sent.clear()


def test_a_failure_is_logged_with_the_id_that_the_client_got(
    serve: Callable[..., AbstractContextManager[Running]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.setFormatter(logs.JsonFormatter())
    with serve() as running:

        def broken(*_: object) -> None:
            raise RuntimeError("made up")

        running.service.host.find = broken  # type: ignore[method-assign,assignment]
        for _ in range(3):  # the first goes through ASGI, the others take the quick way
            caplog.clear()
            stream = caplog.handler.stream = io.StringIO()
            answer = running.client.post(INFER, json=BODY)
            assert answer.status_code == 500
            (line,) = [json.loads(line) for line in stream.getvalue().splitlines()]
            assert line["request_id"] == answer.headers["x-request-id"]
            assert (line["level"], line["logger"]) == ("error", "dlenv.service")
            assert "RuntimeError: made up" in line["exception"]


def record(message: str, **more: object) -> logging.LogRecord:
    return logging.LogRecord("dlenv.service", logging.WARNING, "f.py", 1, message, (), None, **more)  # type: ignore[arg-type]


def test_text_names_the_request_where_there_is_one() -> None:
    late = record("it is late")
    plain = logs.TextFormatter().format(late)
    assert plain.endswith("WARNING dlenv.service: it is late")
    with request_id.identified(b"abc"):
        assert logs.TextFormatter().format(late) == f"{plain} [request abc]"


def test_json_is_one_line_whatever_is_in_it() -> None:
    text = 'two\nlines, "quotes" and \x1b[31mred'
    line = logs.JsonFormatter().format(record(text))
    assert "\n" not in line
    assert "\x1b" not in line
    told = json.loads(line)
    assert told["message"] == text
    assert told["time"].endswith("+00:00")
    assert "request_id" not in told


def test_dlenv_serve_writes_nothing_but_json() -> None:
    with process("spiral-mlp", "--log-format", "json") as it:
        while not any("Serving" in line for line in it.lines):
            assert it.popen.poll() is None, it.lines
        loaded = httpx.post(
            f"{it.url}/v2/repository/models/spiral-linear/load", json={}, headers={"X-Request-Id": "audited"}
        )
        assert loaded.status_code == 200
    lines = [json.loads(line) for line in it.lines]
    (audit,) = [line for line in lines if line["logger"] == "dlenv.audit"]
    assert audit["request_id"] == "audited"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
@pytest.mark.parametrize("form", ["text", "json"])
def test_what_a_replica_logs_comes_out_where_dlenv_serve_writes(form: str, tmp_path: Path) -> None:
    code = """
import logging, os, pathlib, subprocess, sys
from dlenv_service import logs
from dlenv_service.config import Settings
settings = Settings(log_format=sys.argv[2])
directory = pathlib.Path(sys.argv[1])
if len(sys.argv) == 3:
    with logs.forwarded(directory):
        os.environ["RAY_TMPDIR"] = str(directory / "ray")
        subprocess.run([sys.executable, *sys.orig_argv[1:], "replica"], check=True)
else:
    logs.set_up_replica(settings)
    for text in ("short", "long " * 5000):
        logging.getLogger("dlenv.service").warning(text)
    logging.getLogger("dlenv.service").debug("not asked for")
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), form], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    short, long = done.stderr.splitlines()
    assert "short" in short
    assert 300 < len(long) <= 4096
    if form == "json":
        assert json.loads(short)["message"] == "short"
        assert json.loads(long)["cut"] is True


def test_without_a_pipe_a_replica_logs_to_its_own_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    logger = logging.getLogger("dlenv")
    before = (list(logger.handlers), logger.level, logger.propagate)
    try:
        logs.set_up_replica(Settings())
        logging.getLogger("dlenv.service").warning("here")
        assert "WARNING dlenv.service: here" in capsys.readouterr().err
    finally:
        logger.handlers[:], logger.level, logger.propagate = before
