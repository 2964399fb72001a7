"""The client that repeats what can be repeated: against a real service, and against servers that fail on purpose."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from serving import Running
from test_http import png
from test_local import free_port, process

from dlenv import client as module
from dlenv.cli import main
from dlenv.client import Client
from dlenv.errors import (
    DataError,
    InvalidValue,
    ModelFailed,
    NotFound,
    Overloaded,
    RequestError,
    Unauthorized,
    Unavailable,
    Unreachable,
)

Serve = Callable[..., AbstractContextManager[Running]]
Shape = bytes | None

POINT = {"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
GOOD = b'{"model": "m", "version": 1, "predictions": [], "outputs": []}'


def answer(status: int, body: bytes = GOOD, headers: str = "", *, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status} X\r\nContent-Length: {size}\r\n{headers}\r\n".encode() + body


def problem(status: int, headers: str = "") -> bytes:
    return answer(status, json.dumps({"error": f"no: {status}"}).encode(), headers)


class Failing:
    """A server that gives each request the next answer of a list, the last one for ever; None drops the connection."""

    def __init__(self, *answers: Shape) -> None:
        self.answers = list(answers)
        self.asked: list[float] = []
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                request = b""
                while b"\r\n\r\n" not in request or not request.rstrip().endswith((b"}", b"IEND\xaeB`\x82")):
                    if not (part := connection.recv(1 << 16)):
                        break
                    request += part
                if not request:  # the end of the test
                    return
                self.asked.append(time.monotonic())
                self.requests.append(request)
                content = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if content is not None:
                    connection.sendall(content)

    def close(self) -> None:
        socket.create_connection(self._listener.getsockname()).close()
        self._thread.join(10)
        self._listener.close()


@contextmanager
def failing(*answers: Shape) -> Iterator[Failing]:
    server = Failing(*answers)
    try:
        yield server
    finally:
        server.close()


def test_answers_of_a_real_service_are_the_services(running: Running) -> None:
    with Client(running.url) as client:
        assert client.infer("points", POINT) == running.client.post("/v2/models/points/infer", json=POINT).json()
        rows = client.predict("points", [[1, 2], [3, 4]])
        assert rows == running.client.post("/predict/points", json={"inputs": [[1, 2], [3, 4]]}).json()
        assert client.predict("lenet", png(), version=2)["version"] == 2
        assert client.infer("lenet", image(), version=2)["model_version"] == "2"


def image() -> dict[str, object]:
    return {"inputs": [{"name": "input", "shape": [1, 1, 28, 28], "datatype": "UINT8", "data": [0] * 784}]}


def test_refusals_of_a_real_service_come_at_once_as_their_errors(running: Running) -> None:
    began = time.monotonic()
    with Client(running.url) as client:
        with pytest.raises(InvalidValue, match="shape"):
            client.infer("points", {"inputs": [{**POINT["inputs"][0], "shape": [1, 3]}]})
        with pytest.raises(RequestError, match="nobody"):
            client.predict("nobody", [[1, 2]])
        with pytest.raises(InvalidValue, match="not images"):
            client.predict("points", png())
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "bad",
    [
        None,
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        answer(200, GOOD[:9], length=len(GOOD)),
        problem(429),
        problem(503),
        answer(500, b"<html>500 Internal Server Error</html>"),
        answer(502, b"Bad Gateway"),
        answer(503, b""),
        answer(504, b"[]"),
    ],
    ids=["dropped", "closed", "half a head", "half a body", "429", "503", "500 of HAProxy", "502", "503 empty", "504"],
)
def test_what_can_be_repeated_is(bad: Shape) -> None:
    said: list[str] = []
    with failing(bad, bad, answer(200)) as server, Client(server.url, on_retry=said.append) as client:
        assert client.predict("m", [[1]])["version"] == 1
    assert len(server.requests) == 3
    assert server.requests[0] == server.requests[2]
    assert len(said) == 2


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (problem(400), RequestError),
        (problem(401), Unauthorized),
        (problem(404), NotFound),
        (problem(422), InvalidValue),
        (problem(500), ModelFailed),
        (answer(200, b"<html>"), DataError),
        (answer(200, b"[" * 100_000), DataError),
        (answer(200, b'{"predictions": 1}'), DataError),
        (answer(404, b"nothing here"), DataError),
        (answer(302, b"", "Location: http://127.0.0.1:1/\r\n"), DataError),
    ],
)
def test_what_can_not_be_helped_is_not_repeated(bad: bytes, error: type[Exception]) -> None:
    with failing(bad) as server, Client(server.url) as client, pytest.raises(error) as caught:
        client.predict("m", [[1]])
    assert type(caught.value) is error
    assert len(server.requests) == 1


def test_retry_after_is_waited_for() -> None:
    with failing(problem(429, "Retry-After: 1\r\n"), answer(200)) as server, Client(server.url) as client:
        client.infer("m", POINT)
    assert 1 <= server.asked[1] - server.asked[0] < 2


@pytest.mark.parametrize("value", ["Wed, 21 Oct 2026 07:28:00 GMT", "-5", "9" * 400, "1e9", ""])
def test_other_words_for_later_are_passed_over(value: str) -> None:
    with failing(problem(503, f"Retry-After: {value}\r\n"), answer(200)) as server, Client(server.url) as client:
        client.infer("m", POINT)
    assert server.asked[1] - server.asked[0] < 1


def test_a_pause_beyond_the_deadline_is_not_begun() -> None:
    with failing(problem(429, "Retry-After: 60\r\n")) as server, Client(server.url, deadline_s=5) as client:
        began = time.monotonic()
        with pytest.raises(Overloaded) as caught:
            client.infer("m", POINT)
        assert time.monotonic() - began < 2
    assert caught.value.retry_after == 60
    assert len(server.requests) == 1


@pytest.mark.parametrize("bad", [None, problem(503)], ids=["dropped", "503"])
def test_the_deadline_ends_it_and_pauses_grow(bad: Shape) -> None:
    with failing(bad) as server, Client(server.url, deadline_s=1.5) as client:
        began = time.monotonic()
        with pytest.raises((Unreachable, Unavailable)):
            client.infer("m", POINT)
        took = time.monotonic() - began
    assert took < 2.5
    assert 3 <= len(server.requests) <= 40  # pauses are drawn between 0 and 0.1, 0.2, 0.4, 0.8 s


def test_what_was_said_last_counts_where_the_time_runs_out() -> None:
    """The first request is told to come back, the second finds nobody who reads it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def once() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(problem(503))

        thread = threading.Thread(target=once)
        thread.start()
        with (
            Client(f"http://127.0.0.1:{listener.getsockname()[1]}", deadline_s=1) as client,
            pytest.raises(Unavailable, match="no: 503"),
        ):
            client.infer("m", POINT)
        thread.join()


def test_pauses_are_drawn_anew_and_bounded() -> None:
    drawn = [[next(pauses) for _ in range(12)] for pauses in (module._pauses() for _ in range(200))]
    assert all(0 <= pause <= min(0.1 * 2**n, module.LONGEST_PAUSE_S) for each in drawn for n, pause in enumerate(each))
    assert len({each[6] for each in drawn}) > 190
    assert max(each[8] for each in drawn) > 1.5


def test_an_answer_that_does_not_come_is_asked_for_again() -> None:
    """The first connection is accepted by the kernel, but nobody reads it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        said: list[str] = []
        box: list[object] = []
        client = Client(url, attempt_s=0.3, deadline_s=10, on_retry=said.append)
        asking = threading.Thread(target=lambda: box.append(client.infer("m", POINT)))
        with client:
            asking.start()
            silent, _ = listener.accept()
            second, _ = listener.accept()
            with silent, second:
                second.sendall(answer(200))
                asking.join(10)
    assert box
    assert "no answer in time" in said[0]


def test_an_answer_that_trickles_has_no_more_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def trickle() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                    for _ in range(100):
                        connection.sendall(b" ")
                        time.sleep(0.05)
                except OSError:
                    pass

        thread = threading.Thread(target=trickle)
        thread.start()
        began = time.monotonic()
        with (
            Client(f"http://127.0.0.1:{listener.getsockname()[1]}", deadline_s=1) as client,
            pytest.raises(Unreachable, match=r"on and on|in time"),
        ):
            client.infer("m", POINT)
        assert time.monotonic() - began < 3
        thread.join()


@pytest.mark.parametrize(
    "url", ["no address", "ftp://127.0.0.1", "http://name.invalid", "http://[", "http://a:b@c.invalid"]
)
def test_an_address_that_is_wrong_is_said_at_once(url: str) -> None:
    began = time.monotonic()
    with pytest.raises(Unreachable, match="can't be asked") as caught, Client(url) as client:
        client.predict("m", [[1]])
    assert time.monotonic() - began < 5
    assert "a:b" not in str(caught.value)


def test_a_full_queue_is_waited_for(serve: Serve) -> None:
    with serve(max_rows=4, max_queue_rows=4, max_batch=4) as running, Client(running.url, deadline_s=20) as client:
        worker = running.service.host._worker
        assert worker is not None
        release = threading.Event()
        worker.call(lambda: release.wait(20))
        body = {"inputs": [{**POINT["inputs"][0], "shape": [4, 2], "data": [1, 2] * 4}]}
        said: list[str] = []
        with Client(running.url, deadline_s=20, on_retry=said.append) as second:
            box: list[object] = []
            threads = [
                threading.Thread(target=lambda c=c: box.append(c.infer("points", body))) for c in (client, second)
            ]
            threads[0].start()
            while running.service.queued_rows < 4:
                time.sleep(0.005)
            threads[1].start()
            while not said:
                time.sleep(0.005)
            release.set()
            for thread in threads:
                thread.join(20)
    assert len(box) == 2
    assert "the queue is full" in said[0]


@pytest.mark.skipif(sys.platform == "win32", reason="stops and starts a process by signals")
def test_a_service_that_is_started_again_costs_time_and_no_answer(repository: Path) -> None:
    options = ("--repository", str(repository), "--models", "points", "--port", str(free_port()))
    said: list[str] = []
    with process(*options) as first:
        first.wait_for("Serving")
        url = f"http://127.0.0.1:{options[-1]}"
        with Client(url, deadline_s=60, on_retry=said.append) as client:
            wanted = client.infer("points", POINT)
            first.popen.kill()
            first.popen.wait(10)
            with process(*options) as second:
                assert client.infer("points", POINT) == wanted
                second.wait_for("Serving")
    assert said


def test_the_command_waits_for_a_service_that_is_not_there_yet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.png").write_bytes(png())
    bad = answer(502, b"Bad Gateway")
    prediction = {"label": "1", "index": 1, "probability": 0.75, "probabilities": {"0": 0.25, "1": 0.75}}
    good = answer(200, json.dumps({"model": "m", "version": 3, "predictions": [prediction]}).encode())
    with failing(bad, None, good) as server, pytest.raises(SystemExit) as caught:
        main(["predict", "m", str(tmp_path / "one.png"), "--url", server.url])
    output = capsys.readouterr()
    assert caught.value.code == 0
    assert output.out.endswith("\t1\t75.00%\n")
    assert output.err.count("trying again for up to 10 s") == 1
