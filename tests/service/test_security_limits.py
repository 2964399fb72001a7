"""Clients that are slow, silent, endless or too many: each is ended in its time, and nobody else notices."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from peak import grows_at_most
from serving import Running, run_service

from dlenv_service import keyfile, limited
from dlenv_service.config import Settings
from dlenv_service.limited import MOST_HEAD_BYTES, MOST_HEADERS, LimitedProtocol, most_connections

Serve = Callable[..., AbstractContextManager[Running]]

INFER = "/v2/models/points/infer"
CONTENT = b'{"inputs":[{"name":"input","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'
ASK = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(CONTENT)}\r\n\r\n".encode() + CONTENT
LIMIT_S = 0.6


@pytest.fixture(scope="module")
def limits(repository: Path) -> Iterator[Running]:
    short = {"header_timeout_ms": 600, "body_timeout_ms": 600}
    with run_service(Settings(repository=repository, models=("points",), device="cpu", **short)) as running:  # type: ignore[arg-type]
        yield running


@contextmanager
def connected(running: Running) -> Iterator[socket.socket]:
    host, _, port = running.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def rest(connection: socket.socket) -> tuple[bytes, float]:
    """What comes until the service closes the connection, and how long that took."""
    began, data = time.monotonic(), b""
    while True:
        try:
            more = connection.recv(1 << 16)
        except ConnectionResetError:
            more = b""
        if not more:
            return data, time.monotonic() - began
        data += more


def one(connection: socket.socket) -> bytes:
    """One answer with a short body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += (part := connection.recv(1 << 16))
        assert part, data
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(1 << 16)
    return head


def trickle(connection: socket.socket, drop: bytes) -> float:
    """Send drops until the service has had enough; seconds."""
    began = time.monotonic()
    while time.monotonic() < began + 10:
        time.sleep(0.1)
        try:
            connection.sendall(drop)
        except OSError:
            break
    return time.monotonic() - began


def test_a_connection_that_says_nothing_is_closed(limits: Running) -> None:
    with connected(limits) as connection:
        data, seconds = rest(connection)
    assert data == b""
    assert LIMIT_S * 0.8 < seconds < LIMIT_S + 2


@pytest.mark.parametrize("first", [b"", ASK], ids=["new", "after a request"])
def test_half_a_head_is_answered_408(limits: Running, first: bytes) -> None:
    with connected(limits) as connection:
        if first:
            for _ in range(3):  # on the quick way too
                connection.sendall(first)
                assert b" 200 " in one(connection)
        connection.sendall(b"POST /v2/models/points/infer HTTP/1.1\r\nHost:")
        data, seconds = rest(connection)
    assert data.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"connection: close" in data
    assert json.loads(data.partition(b"\r\n\r\n")[2])["error"].startswith("the request's head did not arrive within")
    assert LIMIT_S * 0.8 < seconds < LIMIT_S + 2


@pytest.mark.parametrize("drop", [b"X-A: b\r\n", b"\r\n"], ids=["a header at a time", "empty lines"])
def test_a_head_that_comes_drop_by_drop_gets_no_more_time(limits: Running, drop: bytes) -> None:
    with connected(limits) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" if drop != b"\r\n" else b"\r\n")
        assert trickle(connection, drop) < LIMIT_S + 3


def test_a_head_behind_a_request_gets_no_more_time(limits: Running) -> None:
    with connected(limits) as connection:
        connection.sendall(ASK + b"GET / HT")
        data, seconds = rest(connection)
    assert data.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in data
    assert seconds < LIMIT_S + 2


def test_a_request_under_way_is_not_cut_off_by_half_a_head_behind_it(serve: Serve) -> None:
    with (
        serve(models=("points",), max_delay_us=900_000, header_timeout_ms=300) as running,
        connected(running) as connection,
    ):
        connection.sendall(ASK)
        time.sleep(0.05)
        connection.sendall(b"GET / HT")
        data, _ = rest(connection)
    assert data.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in data


def test_a_slow_but_timely_client_is_served(limits: Running) -> None:
    with connected(limits) as connection:
        for _ in range(3):
            head, _, body = ASK.partition(b"\r\n\r\n")
            for piece in (head[:10], head[10:40], head[40:] + b"\r\n\r\n", body[:20], body[20:]):
                connection.sendall(piece)
                time.sleep(0.1)
            assert b" 200 " in one(connection)


def test_an_idle_connection_is_uvicorns_business(limits: Running) -> None:
    with connected(limits) as connection:
        for _ in range(2):
            connection.sendall(ASK)
            assert b" 200 " in one(connection)
            time.sleep(LIMIT_S + 0.5)  # less than uvicorn's 5 s


def test_a_body_that_nobody_waits_for_gets_its_time_and_no_more(serve: Serve, tmp_path: Path) -> None:
    keyfile.add(tmp_path / "keys.toml", "one", ())
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode()
    with (
        serve(models=("points",), keys=tmp_path / "keys.toml", body_timeout_ms=600) as running,
        connected(running) as connection,
    ):
        connection.sendall(head)
        assert b" 401 " in one(connection)
        assert trickle(connection, b"x") < LIMIT_S + 3


@pytest.mark.parametrize("shape", ["one header", "many headers", "path"])
def test_an_endless_head_is_answered_431(limits: Running, shape: str) -> None:
    start, drop = {
        "one header": (b"GET / HTTP/1.1\r\nX: ", b"a" * 4096),
        "many headers": (b"GET / HTTP/1.1\r\n", b"X-A: b\r\n" * 512),
        "path": (b"GET /", b"a" * 4096),
    }[shape]
    with connected(limits) as connection:
        sent = len(start)
        connection.sendall(start)
        connection.settimeout(0.02)
        answer = b""
        while not answer and sent < 2 * MOST_HEAD_BYTES + 65536:
            connection.sendall(drop)
            sent += len(drop)
            try:
                answer = connection.recv(4096)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 431 "), answer


def test_as_many_headers_as_that_and_no_more(limits: Running) -> None:
    for count, status in ((MOST_HEADERS - 2, b"200"), (MOST_HEADERS - 1, b"431")):
        with connected(limits) as connection:
            connection.sendall(ASK.replace(b"Host: x\r\n", b"Host: x\r\n" + b"A:\r\n" * count))
            assert one(connection).startswith(b"HTTP/1.1 " + status)


CHUNKED = b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
WRAPPINGS = {
    "chunks of one byte": (b"", b"1\r\n \r\n"),
    "an endless extension": (b"1;", b"a" * 1000),
    "trailers without end": (b"1\r\n[\r\n0\r\n", b"a:\r\n"),
    "an endless trailer": (b"1\r\n[\r\n0\r\na:", b"a" * 1000),
}


@pytest.mark.parametrize("path", [INFER, "/nowhere"])
@pytest.mark.parametrize("name", WRAPPINGS)
def test_a_body_that_is_mostly_wrapping_is_cut_off(repository: Path, serve: Serve, name: str, path: str) -> None:
    start, unit = WRAPPINGS[name]
    data, sent = unit * (200_000 // len(unit)), 0
    with serve(models=("points",)) as running, grows_at_most(40), connected(running) as connection:
        connection.sendall(CHUNKED % path.encode() + start)
        began = time.monotonic()
        with suppress(ConnectionError):
            while sent < 100_000_000:
                connection.sendall(data)
                sent += len(data)
        assert time.monotonic() - began < 4  # others wait meanwhile
    assert sent < 10_000_000  # what the kernel takes of it
    assert running.service.in_flight == running.service.body_bytes == 0


def test_a_trailer_is_no_header(limits: Running) -> None:
    chunks = b"%x\r\n%s\r\n0\r\n" % (len(CONTENT), CONTENT)
    trailers = b"Inference-Header-Content-Length: 3\r\nX-Request-Id: from-below\r\nAuthorization: Bearer x\r\n\r\n"
    with connected(limits) as connection:
        connection.sendall(CHUNKED % INFER.encode() + chunks + trailers)
        head = one(connection)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"from-below" not in head
        connection.sendall(ASK)
        assert b" 200 " in one(connection)


def test_large_pipelined_requests_are_no_large_head(limits: Running) -> None:
    content = CONTENT + b" " * 100_000
    ask = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
    with connected(limits) as connection:
        connection.sendall((ask * 3)[: len(ask) + 20])
        time.sleep(0.1)
        connection.sendall((ask * 3)[len(ask) + 20 :])
        assert b"".join(one(connection) for _ in range(3)).count(b"HTTP/1.1 200 ") == 3


def test_bodies_that_are_announced_and_do_not_come_keep_nobody_out(serve: Serve) -> None:
    with serve(models=("points",), max_body_bytes=1 << 20, max_pending_bytes=4 << 20) as running, ExitStack() as stack:
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 20}\r\n\r\n".encode()
        slow = [stack.enter_context(connected(running)) for _ in range(20)]
        for connection in slow:
            connection.sendall(head + b" " * 100)
        with connected(running) as connection:
            connection.sendall(ASK)
            assert b" 200 " in one(connection)
        # Nor do those that come and never end: a quarter is for those that are there at once.
        for connection in slow:
            connection.sendall(b" " * ((1 << 20) - 200))
        assert b" 429 " in one(slow[-1])
        with connected(running) as connection:
            connection.sendall(ASK)
            assert b" 200 " in one(connection)
        assert running.service.body_bytes <= 3 << 20
    assert running.service.body_bytes == 0


LARGE = json.dumps({"inputs": [[0, 0]] * 60_000}).encode()  # its answer is larger than what the kernel takes
ASK_LARGE = (
    b"POST /predict/points HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"%%sContent-Length: %d\r\n\r\n%s" % (len(LARGE), LARGE)
)


@contextmanager
def reading_little(running: Running) -> Iterator[socket.socket]:
    host, _, port = running.address.partition(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect((host, int(port)))
        yield connection


@pytest.fixture(scope="module")
def large(repository: Path) -> Iterator[Running]:
    most = {"max_rows": 100_000, "max_queue_rows": 1_000_000, "max_batch": 8192}
    with run_service(Settings(repository=repository, models=("points",), device="cpu", **most)) as running:  # type: ignore[arg-type]
        yield running


@pytest.mark.parametrize(("times", "close"), [(4, b""), (1, b"Connection: close\r\n")], ids=["kept", "closed"])
def test_who_does_not_read_the_answer_loses_the_connection(
    large: Running, monkeypatch: pytest.MonkeyPatch, times: int, close: bytes
) -> None:
    monkeypatch.setattr(limited, "TAKEN_WITHIN_S", 0.4)
    lost, losing = threading.Event(), LimitedProtocol.connection_lost

    def note(self: LimitedProtocol, exc: Exception | None) -> None:
        losing(self, exc)
        lost.set()

    monkeypatch.setattr(LimitedProtocol, "connection_lost", note)
    with reading_little(large) as connection:
        connection.sendall((ASK_LARGE % b"") * (times - 1) + ASK_LARGE % close)
        received = 0
        assert lost.wait(15)
        with suppress(ConnectionError):
            while part := connection.recv(1 << 16):
                received += len(part)
    assert received < 5_000_000  # what the kernel had of it


def test_who_reads_slowly_gets_the_answer(large: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    init = LimitedProtocol.__init__

    def hasty(self: LimitedProtocol, *arguments: object, **options: object) -> None:
        init(self, *arguments, **options)
        self.timeout_keep_alive = 0.3  # type: ignore[assignment] # uvicorn's, 5 s

    monkeypatch.setattr(LimitedProtocol, "__init__", hasty)
    with reading_little(large) as connection:
        connection.sendall(ASK_LARGE % b"")
        time.sleep(1.5)
        head, _, body = connection.recv(1 << 16).partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        received = len(body)
        while received < length:
            received += len(part := connection.recv(1 << 16))
            assert part
    assert length > 5_000_000


def test_more_connections_than_allowed_are_refused_and_the_others_go_on(serve: Serve) -> None:
    with serve(models=("points",), max_connections=3) as running, ExitStack() as stack:
        kept = [stack.enter_context(connected(running)) for _ in range(3)]
        for connection in kept:
            connection.sendall(ASK)
            assert b" 200 " in one(connection)
        with connected(running) as surplus:
            data, seconds = rest(surplus)
            assert data.startswith(b"HTTP/1.1 503 ")
            assert b"3 connections are open, which is the limit" in data
            assert seconds < 2
        kept[0].close()
        time.sleep(0.2)
        with connected(running) as next_one:
            next_one.sendall(ASK)
            assert b" 200 " in one(next_one)
        kept[1].sendall(ASK)
        assert b" 200 " in one(kept[1])


def test_nobody_fills_the_log_with_requests_that_are_none(limits: Running, caplog: pytest.LogCaptureFixture) -> None:
    for nonsense in (b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"no request at all\r\n\r\n"):
        with connected(limits) as connection:
            connection.sendall(nonsense)
            data, _ = rest(connection)
        assert data.startswith(b"HTTP/1.1 400 ")
    assert not [record for record in caplog.records if "nvalid" in record.getMessage()]


def test_half_open_connections_keep_nobody_out(limits: Running) -> None:
    with ExitStack() as stack:
        half = [stack.enter_context(connected(limits)) for _ in range(200)]
        for connection in half[::2]:
            connection.sendall(b"POST / HT")
        with connected(limits) as connection:
            connection.sendall(ASK)
            assert b" 200 " in one(connection)
        for connection in half:
            data, _ = rest(connection)
            assert data == b"" or data.startswith(b"HTTP/1.1 408 ")
    assert limits.service.in_flight == 0


def test_the_limit_of_descriptors_leaves_room_to_refuse() -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = most_connections(1_000_000)
    after, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        assert most <= 1_000_000
        assert most < after or after == resource.RLIM_INFINITY
    finally:
        most_connections.cache_clear()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
