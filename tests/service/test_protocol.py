"""The quick way for inference requests: the same answers as the ASGI application gives, in whatever pieces."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import Running, run_service

from dlenv_service.config import Settings
from dlenv_service.protocol import HEADS, InferenceProtocol, read_head

Serve = Callable[..., AbstractContextManager[Running]]

POINTS = "/v2/models/points/infer"
DIGITS = "/v2/models/digits/infer"
JSON = b'{"inputs":[{"name":"input","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'
RAW = {"Inference-Header-Content-Length": "0"}


def message(body: bytes = JSON, path: str = POINTS, **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: here", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def digits(value: int, rows: int = 1) -> bytes:
    return np.full((rows, 1, 28, 28), value, np.uint8).tobytes()


class Client:
    """A connection that is written to and read from byte by byte."""

    def __init__(self, address: str) -> None:
        host, _, port = address.partition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> tuple[int, dict[str, str], bytes]:
        while b"\r\n\r\n" not in self.buffer:
            self._more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers["content-length"])
        while len(self.buffer) < length:
            self._more()
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        headers.pop("date", None)
        assert len(headers.pop("x-request-id")) == 32
        return int(first.split()[1]), headers, body

    def _more(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError(self.buffer)
        self.buffer += data


@contextmanager
def connected(running: Running) -> Iterator[Client]:
    client = Client(running.address)
    with client.socket:
        yield client


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    with connected(running) as it:
        yield it


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the requests that went the quick way, with no head known at first."""
    paths: list[str] = []
    begin = InferenceProtocol.__dict__["answered"]

    def answered(self: InferenceProtocol, *arguments: object, **options: object) -> None:
        assert self._exchange is not None
        paths.append(self._exchange._head.path)
        begin(self, *arguments, **options)

    monkeypatch.setattr(InferenceProtocol, "answered", answered)
    monkeypatch.setattr(InferenceProtocol, "heads", {})
    return paths


def ask(client: Client, data: bytes) -> tuple[int, dict[str, str], bytes]:
    client.send(data)
    return client.receive()


def test_the_second_request_with_the_same_head_goes_the_quick_way(client: Client, quick: list[str]) -> None:
    first = ask(client, message())
    assert quick == []
    assert ask(client, message()) == first
    assert quick == [POINTS]
    assert first[0] == 200


def test_other_connections_profit_and_other_bodies_are_answered_as_such(running: Running, quick: list[str]) -> None:
    answers = []
    for value in (0, 90, 180, 90):
        with connected(running) as client:
            answers.append(ask(client, message(digits(value), DIGITS, **RAW)))
    assert len(quick) == 3
    assert answers[1] == answers[3]
    assert len({body for _, _, body in answers}) == 3


# What is wrong with a request is told with the same words, whichever way it went.
BAD = {
    "no JSON": message(b"{" * 20),
    "a wrong shape": message(JSON.replace(b"[1,2]", b"[1,3]", 1)),
    "not finite": message(JSON.replace(b"[1,2]}]", b"[1,1e99]}]")),
    "overflows": message(JSON.replace(b"[1,2]}]", b"[3e38,-3e38]}]")),
    "unknown model": message(path="/v2/models/nothing/infer"),
    "unknown version": message(path="/v2/models/points/versions/77/infer"),
    "broken rows": message(digits(0)[:-1], DIGITS, **RAW),
    "a header length that is none": message(path=POINTS, Inference_Header_Content_Length="ten"),
    "too many rows": message(digits(0, 5000), DIGITS, **RAW),
}
GOOD = {
    "json": message(),
    "with a version": message(path="/v2/models/points/versions/1/infer"),
    "with an id": message(JSON[:-1] + b',"id":"7"}'),
    "raw": message(digits(7), DIGITS, **RAW),
    "rows": message(digits(7, 70), DIGITS, **RAW),
    "binary answers": message(JSON[:-1] + b',"parameters":{"binary_data_output":true}}'),
    "one output": message(JSON[:-1] + b',"outputs":[{"name":"label"}]}'),
    "a type": message(Content_Type="application/json"),
}


@pytest.mark.parametrize("data", [*BAD.values(), *GOOD.values()], ids=[*BAD, *GOOD])
def test_both_ways_give_the_same_answer(running: Running, quick: list[str], data: bytes) -> None:
    with connected(running) as client:
        first = ask(client, data)
        second = ask(client, data)
    assert first == second
    # Large bodies come in pieces, and a connection with an error in it stays open all the same.
    assert len(quick) == (len(data) < 60_000)
    assert (first[0] == 200) == (data in GOOD.values())


@pytest.mark.parametrize(
    "data",
    [
        message(Connection="close"),
        message(Expect="100-continue"),
        message(Content_Type="text/plain"),
        message(Content_Encoding="gzip"),
        message(path=POINTS + "?a=b"),
        message(path="/predict/points"),
        message().replace(b"HTTP/1.1", b"HTTP/1.0"),
        message(X="y" * 5000),
        b"\r\n\r\n" + message(),
        message().replace(b"Host: here\r\n", b"Host: here\r\nTransfer-Encoding: chunked\r\n"),
    ],
    ids=lambda data: data[:40].decode() + str(len(data)),
)
def test_what_is_unusual_is_left_to_the_server(running: Running, quick: list[str], data: bytes) -> None:
    for _ in range(2):
        with connected(running) as client:
            client.send(data)
            time.sleep(0.05)
    assert InferenceProtocol.heads == {}
    assert quick == []


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n\r\n",
        b"POST /v2/models/points/infer HTTP/1.1\nContent-Length: 3\n\nabc\r\n\r\n",
        b"POST /v2/models/points/infer HTTP/1.1\r\nContent-Length: 3\r\nA: b\r\n\r\n",
        b"GET /v2/models/points/infer HTTP/1.1\r\nContent-Length: 3\r\n\r\n",
    ],
)
def test_a_head_that_the_parser_read_differently_is_not_kept(raw: bytes) -> None:
    scope = {
        "http_version": "1.1",
        "query_string": b"",
        "path": POINTS,
        "headers": [(b"content-length", b"3")],
    }
    good = b"POST /v2/models/points/infer HTTP/1.1\r\nContent-Length: 3\r\n\r\n"
    assert read_head(good, scope, 100) == (POINTS, "points", None, 3, None, None)
    assert read_head(raw, scope, 100) is None


def test_bodies_above_the_limit_are_left_to_the_server(serve: Serve, quick: list[str]) -> None:
    with serve(max_body_bytes=1024, max_pending_bytes=2048) as running:
        for _ in range(2):
            with connected(running) as client:
                assert ask(client, message(b" " * 2000))[0] == 413
    assert quick == []


def test_heads_are_forgotten_before_they_take_memory(client: Client, quick: list[str]) -> None:
    for number in range(HEADS + 10):
        assert ask(client, message(X=str(number)))[0] == 200
    assert len(InferenceProtocol.heads) == 10
    assert quick == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 999), max_size=4), count=st.integers(1, 4))
def test_pieces_and_pipelines_are_answered_in_order(running: Running, cuts: list[int], count: int) -> None:
    values = [50 * number for number in range(count)]
    data = b"".join(message(digits(value), DIGITS, **RAW) for value in values)
    with connected(running) as client:
        wanted = [ask(client, message(digits(value), DIGITS, **RAW)) for value in values]
        places = sorted({cut * len(data) // 1000 for cut in cuts})
        for start, stop in zip([0, *places], [*places, len(data)], strict=True):
            client.send(data[start:stop])
            time.sleep(0.001)
        assert [client.receive() for _ in values] == wanted


def test_a_pipelined_request_waits_for_the_answer_before_it(serve: Serve, quick: list[str]) -> None:
    # A delay keeps the first one in the queue while the second arrives, in a packet of its own.
    with serve(max_delay_us=200_000) as running, connected(running) as client:
        ask(client, message())
        client.send(message())
        time.sleep(0.05)
        client.send(b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n")
        assert client.receive()[1]["content-type"] == "application/json"
        assert client.receive()[0] == 200
    assert quick == [POINTS]


@contextmanager
def held(running: Running) -> Iterator[None]:
    """The device does nothing meanwhile."""
    release = threading.Event()
    worker = running.service.host._worker
    assert worker is not None
    job = worker.call(lambda: release.wait(20))
    try:
        yield
    finally:
        release.set()
        assert job.result(20)


def idle(running: Running) -> None:
    """Nothing is under way; what was answered may take a moment to be done with."""
    until = time.monotonic() + 5
    while running.service.in_flight and time.monotonic() < until:
        time.sleep(0.01)
    assert running.service.in_flight == running.service.body_bytes == 0


def test_a_full_queue_refuses(serve: Serve, quick: list[str]) -> None:
    with serve(max_rows=64, max_queue_rows=64) as running:
        with connected(running) as client, connected(running) as other:
            ask(client, message(digits(1, 60), DIGITS, **RAW))
            ask(client, message(digits(1, 10), DIGITS, **RAW))
            with held(running):
                client.send(message(digits(1, 60), DIGITS, **RAW))
                time.sleep(0.1)
                status, headers, body = ask(other, message(digits(1, 10), DIGITS, **RAW))
            assert (status, headers["retry-after"]) == (429, "1")
            assert b"the queue is full: 60 rows wait and 10 more" in body
            assert client.receive()[0] == 200
        idle(running)
    assert len(quick) >= 1


def test_a_full_queue_refuses_before_the_body_is_there(serve: Serve) -> None:
    with serve(max_rows=64, max_queue_rows=64) as running:
        with connected(running) as client, connected(running) as other:
            with held(running):
                client.send(message(digits(1, 64), DIGITS, **RAW))
                time.sleep(0.1)
                other.send(message(digits(1, 64), DIGITS, **RAW)[:2000])
                status, _, body = other.receive()
            assert (status, b"64 rows wait and 1 more" in body) == (429, True)
            assert client.receive()[0] == 200
        idle(running)


def test_a_client_that_goes_leaves_the_queue(serve: Serve, quick: list[str]) -> None:
    with serve(max_delay_us=400_000) as running:
        with connected(running) as client:
            ask(client, message())
            client.send(message())
            time.sleep(0.1)
            assert running.service.in_flight == 1
        idle(running)
        with connected(running) as client:
            ask(client, message())
        served = running.service.host.find("points")
        assert dict(served.statistics.requests) == {200: 2, 499: 1}
        assert served.statistics.rows == 2


def test_draining_closes_after_the_answer(serve: Serve, quick: list[str]) -> None:
    with serve(max_delay_us=200_000) as running, connected(running) as client:
        ask(client, message())
        client.send(message())
        time.sleep(0.05)
        running.run(running.service.drain())
        status, headers, _ = client.receive()
        assert (status, headers["connection"]) == (200, "close")
        with pytest.raises(ConnectionError):
            client.receive()
    assert quick == [POINTS]


def test_a_service_that_stops_answers_first(repository: Path, quick: list[str]) -> None:
    box: list[tuple[int, dict[str, str], bytes]] = []
    with run_service(
        Settings(repository=repository, models=("points",), device="cpu", max_delay_us=300_000)
    ) as running:
        client = Client(running.address)
        ask(client, message())
        client.send(message())
        time.sleep(0.05)
        reader = threading.Thread(target=lambda: box.append(client.receive()))
        reader.start()
    reader.join()
    client.socket.close()
    assert box[0][0] == 200


def test_the_model_may_change_between_two_requests(serve: Serve, quick: list[str]) -> None:
    with serve(models=("points", "digits")) as running, connected(running) as client:
        assert ask(client, message())[0] == 200
        httpx.post(f"{running.url}/v2/repository/models/points/unload").raise_for_status()
        status, _, body = ask(client, message())
        assert status == 404
        assert json.loads(body)["error"].startswith("model 'points' is not loaded")
    assert quick == [POINTS]


def test_a_model_that_fails_is_answered_500(
    serve: Serve, quick: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no kernel image is available")

    with serve() as running, connected(running) as client:
        ask(client, message())
        monkeypatch.setattr(running.service.host.find("points").lane.runner, "run", fail)
        status, _, body = ask(client, message())
    assert status == 500
    assert b"kernel" not in body
    assert quick == [POINTS]


def test_late_requests_are_answered_504(serve: Serve, quick: list[str]) -> None:
    with serve(max_delay_us=500_000, deadline_ms=1000) as running, connected(running) as client:
        data = message(JSON[:-1] + b',"parameters":{"timeout":100000}}')
        first, second = ask(client, data), ask(client, data)
    assert first[0] == second[0] == 504
    assert re.sub(rb"\d+ ms", b"", first[2]) == re.sub(rb"\d+ ms", b"", second[2])
    assert quick == [POINTS]


def test_idle_connections_are_closed_as_before(repository: Path, quick: list[str]) -> None:
    assert uvicorn.Config(lambda: None).timeout_keep_alive == 5
    options = Settings(repository=repository, models=("points",), device="cpu")
    with run_service(options) as running, connected(running) as client:
        ask(client, message())
        ask(client, message())
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            client.receive()
        assert 4 < time.monotonic() - began < 15
