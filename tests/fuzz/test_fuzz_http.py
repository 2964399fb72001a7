"""Messages that are nearly HTTP, to a service that runs: never a 5xx, never a hang, and it goes on as before."""

from __future__ import annotations

import json
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fuzz_cases import share
from fuzz_grammar import Grammar
from serving import Running, publish, run_service

from dlenv_service.config import Settings

PATHS = [
    "/", "/docs", "/openapi.json", "/metrics", "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/points",
    "/v2/models/points/infer", "/v2/models/points/versions/1/infer", "/v2/models/points/config", "/models",
    "/v2/models/points/ready", "/v2/models/points/versions/1", "/predict/points", "/predict/points/versions/1",
    "/v2/repository/index", "/v2/models/stats", "/page/main.js", "/v2/models/points/stats",
]  # fmt: skip
METHODS = ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "G\x00T", "M" * 300]
VALUES = [
    "", "0", "1", "-1", "chunked", "close", "keep-alive", "upgrade", "gzip", "identity", "application/json",
    "application/octet-stream", "image/png", "text/plain; charset=x", "*/*", "100-continue", "bytes=0-1", "x" * 3000,
    "\xff\xfe", "a, b", "Bearer x", "null", "http://evil.example", "h2c", "websocket",
    "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
]  # fmt: skip
NAMES = [
    "Host", "Content-Type", "Content-Length", "Transfer-Encoding", "Connection", "Expect", "Upgrade", "Accept", "Range",
    "Content-Encoding", "Inference-Header-Content-Length", "Authorization", "Origin", "X-Request-Id", "X-Forwarded-For",
    "Traceparent", "Cookie", "If-None-Match", "Sec-WebSocket-Key", "Access-Control-Request-Method", "Trailer", "TE",
]  # fmt: skip
ENDS = [
    "?", "?invert=true", "?reconstruct=true", "?x=%00", "/", "//", "/..", "%2f", "%", ";", "#a", "\xe4",
    "?" + "a" * 5000,
]  # fmt: skip
BODY = json.dumps({"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}).encode()
GOOD = f"POST /v2/models/points/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY
# Ends whatever comes before it: the connection closes with its answer, or it is taken for a missing body's.
LAST = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
WAIT_MS = 200  # for the rest of a message that is not complete
HANG_S = 30.0  # whatever else the machine does
CLIENTS = 16


class Messages(Grammar):
    """Makes HTTP messages."""

    def message(self) -> bytes:
        """One message, or some in a row."""
        data = b"".join(self._one() for _ in range(self.choice((1, 1, 1, 2, 4))))
        for _ in range(self.choice((0, 0, 1, 3))):
            data = self.damaged(data)
        return data

    def _one(self) -> bytes:
        method = self.choice(METHODS) if self.random() < 0.4 else self.choice(("GET", "POST"))
        path = self.choice(PATHS)
        if self.random() < 0.3:
            path += self.choice(ENDS)
        body = self.choice((b"", BODY, self.case().body)) if method == "POST" else b""
        lines = [f"{method} {path} {self.choice(('HTTP/1.1',) * 9 + ('HTTP/1.0', 'HTTP/2.0', 'HTTP/1.1 ', ''))}"]
        if self.random() < 0.9:
            lines.append("Host: x")
        chunked = self.random() < 0.15
        if chunked:
            lines.append("Transfer-Encoding: chunked")
            size = self.choice((1, 7, 1000))
            parts = [body[at : at + size] for at in range(0, len(body), size)]
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        elif body or self.random() < 0.3:
            lines.append(f"Content-Length: {len(body) + self.choice((0,) * 9 + (-1, 1, 100))}")
        count = self.choice((0, 0, 1, 2, 5, 60))
        lines += [f"{self.choice(NAMES)}: {self.choice(VALUES)}" for _ in range(count)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@pytest.fixture(scope="module", params=[0, 1], ids=["one process", "a front"])
def attacked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("models")
    publish(root, "points", "linear", input_shape=[2], classes=3)
    limits = {"header_timeout_ms": WAIT_MS, "body_timeout_ms": WAIT_MS, "max_body_bytes": 65_536}
    with run_service(
        Settings(repository=root, models=("points",), device="cpu", fronts=request.param, **limits)  # type: ignore[arg-type]
    ) as running:
        yield running


def exchange(address: tuple[str, int], data: bytes) -> bytes:
    """All that comes back; raises TimeoutError where the connection stays open without a word."""
    answer = b""
    with socket.create_connection(address, timeout=HANG_S) as raw:
        try:
            raw.sendall(data + LAST)
            while part := raw.recv(1 << 16):
                answer += part
        except (ConnectionResetError, BrokenPipeError):  # what else was sent did not interest it
            pass
    return answer


STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Z][A-Za-z' -]*\r\n")


def test_messages_by_grammar(attacked: Running, seed: int, tried: dict[str, int]) -> None:
    host, _, port = attacked.address.partition(":")
    address = (host, int(port))
    wanted = attacked.client.post("/v2/models/points/infer", content=BODY).content
    messages = Messages(seed + attacked.service.settings.fronts)
    count = share(0.04)
    statuses: Counter[int] = Counter()

    def attempt(numbered: tuple[int, bytes]) -> list[int]:
        number, data = numbered
        try:
            answer = exchange(address, data)
        except TimeoutError as error:
            raise AssertionError((seed, number, data)) from error
        found = [int(status) for status in STATUS.findall(answer)]
        assert not answer or answer.startswith(b"HTTP/1."), (seed, number, data, answer[:300])
        assert all(status < 500 for status in found), (seed, number, data, answer[:500])
        assert b"Traceback" not in answer, (seed, number, data)
        if number % 50 == 0:
            assert wanted in exchange(address, GOOD), (seed, number)
        return found

    with ThreadPoolExecutor(CLIENTS) as clients:
        for start in range(0, count, 1000):  # the executor keeps what it is given
            cases = [(number, messages.message()) for number in range(start, min(count, start + 1000))]
            for found in clients.map(attempt, cases):
                statuses.update(found)
    assert exchange(address, GOOD * 3).count(b'"model_name":"points"') == 3
    assert attacked.client.get("/v2/health/ready").status_code == 200
    assert {200, 400, 404, 405} <= set(statuses), statuses
    deadline = time.monotonic() + 10
    while attacked.service.all_in_flight:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert attacked.service.body_bytes == 0
    name = f"HTTP messages by grammar, {attacked.service.settings.fronts} fronts"
    tried[name] = tried.get(name, 0) + count
