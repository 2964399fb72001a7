"""Fronts: what they gather, and that a service behind them answers as one without."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import ssl
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import certificates
import httpx
import numpy as np
import psutil
import pytest
from serving import Running, run_service
from test_http import wait_until
from test_protocol import BAD, GOOD, ask, connected

from dlenv.errors import DeadlineExceeded, ModelFailed, ModelNotFound, Overloaded, StartError, Unavailable
from dlenv_service import child, keyfile
from dlenv_service.batcher import Answer, Array
from dlenv_service.config import Settings
from dlenv_service.fronts import keeper
from dlenv_service.fronts.relay import CONNECTIONS
from dlenv_service.fronts.remote import RemoteHost
from dlenv_service.fronts.wire import (
    SLOTS,
    Applied,
    Channel,
    Done,
    Failed,
    Memory,
    Message,
    Model,
    Models,
    Rows,
    error_of,
    failed,
    slot_bytes,
    slot_rows,
    write_answer,
)
from dlenv_service.tensors import Signature

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="descriptors are passed on over Unix sockets only")

Serve = Callable[..., AbstractContextManager[Running]]

POINT = {"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
INFER = "/v2/models/points/infer"
SIGNATURE = Signature("points", "input", "FP32", (2,), ("probabilities", "label"), 1024)


class Main:
    """A front's models, and the main process that answers when it is told to."""

    def __init__(self, **settings: int) -> None:
        self.said: list[Message] = []
        self.memory = Memory.make(slot_bytes(1024))
        self.host = RemoteHost(Settings(**settings), self.memory, self.said.append)  # type: ignore[arg-type]
        self.load(1)

    def load(self, *keys: int) -> None:
        models = tuple(Model(key, "points", key, SIGNATURE, 3) for key in keys)
        self.host.apply(Models(max(keys), models))

    def ask(self, value: float, rows: int = 1, timeout_us: int | None = None) -> asyncio.Future[Answer]:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.host.find("points").submit(np.full((rows, 2), value, np.float32), timeout_us, future)
        return future

    async def rows(self) -> list[Rows]:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return [message for message in self.said if isinstance(message, Rows)]

    def sent(self, message: Rows) -> Array:
        return self.memory.rows(message.slot, message.rows, SIGNATURE)

    def answer(self, message: Rows) -> None:
        """Each row's label is its first value."""
        labels = self.sent(message)[:, 0].astype(np.int64)
        result = Answer(np.repeat(labels[:, None], 3, 1).astype(np.float32), labels)
        write_answer(self.memory, message.slot, result, SIGNATURE)
        self.host.done(Done(message.slot, 3, True, time.perf_counter_ns(), 1000.0))


def run(body: Callable[[], object]) -> None:
    asyncio.run(asyncio.wait_for(body(), 20))  # type: ignore[arg-type]


def test_what_comes_alone_is_handed_over_at_once_and_what_comes_meanwhile_together() -> None:
    async def body() -> None:
        main = Main()
        answers = [main.ask(1), main.ask(2)]
        (first,) = await main.rows()
        assert (first.rows, first.requests, first.model) == (2, 2, 1)
        assert main.sent(first).tolist() == [[1, 1], [2, 2]]
        for value in range(3, 2 + SLOTS):
            answers.append(main.ask(value))
            await main.rows()
        assert len(await main.rows()) == SLOTS
        answers += [main.ask(value, rows=2) for value in (20, 21, 22)]
        assert len(await main.rows()) == SLOTS
        main.answer(first)
        *_, last = await main.rows()
        assert (last.rows, last.requests, last.slot) == (6, 3, first.slot)
        for rest in (await main.rows())[1:]:
            main.answer(rest)
        labels = [(await answer).labels.tolist() for answer in answers]
        assert labels == [[1], [2], *([value] for value in range(3, 2 + SLOTS)), [20, 20], [21, 21], [22, 22]]

    run(body)


def test_a_request_larger_than_a_batch_is_answered_as_one() -> None:
    async def body() -> None:
        main = Main(max_batch=4)
        answer = main.ask(7, rows=10)
        messages = await main.rows()
        assert [message.rows for message in messages] == [4, 4, 2]
        for each in reversed(messages):
            main.answer(each)
        assert (await answer).labels.tolist() == [7] * 10
        assert (await answer).probabilities.shape == (10, 3)

    run(body)


def test_errors_come_back_as_what_they_were() -> None:
    async def body() -> None:
        main = Main()
        for error in (Overloaded("full", 3), DeadlineExceeded("late"), ModelFailed("no"), Unavailable("soon")):
            answer = main.ask(1)
            slot = (await main.rows())[-1].slot
            main.host.failed(failed(slot, error))
            with pytest.raises(type(error), match=str(error)) as raised:
                await answer
            assert getattr(raised.value, "retry_after", None) == getattr(error, "retry_after", None)
        assert isinstance(error_of(failed(0, KeyError("inside"))), RuntimeError)
        assert isinstance(error_of(Failed(0, "BaseException", "", 0)), RuntimeError)

    run(body)


def test_a_full_queue_refuses_and_a_deadline_ends_the_waiting() -> None:
    async def body() -> None:
        main = Main(max_rows=2, max_queue_rows=4, max_batch=2)
        under_way = [main.ask(1, rows=2) for _ in range(2)]
        await main.rows()
        under_way += [main.ask(1, rows=2) for _ in range(SLOTS - 2)]
        await main.rows()
        waiting = [main.ask(2, rows=2, timeout_us=1), main.ask(3, rows=2)]
        with pytest.raises(Overloaded, match="limit of 4"):
            main.ask(4)
        with pytest.raises(Overloaded):
            main.host.find("points").check_room()
        await asyncio.sleep(0.001)
        main.host.expire(time.perf_counter_ns())
        with pytest.raises(DeadlineExceeded):
            await waiting[0]
        main.host.expire(time.perf_counter_ns() + 3600 * 10**9)
        for late in (*under_way, waiting[1]):
            with pytest.raises(DeadlineExceeded):
                await late
        for each in await main.rows():  # what comes too late changes nothing, and gives the slots back
            main.answer(each)
        again = []
        for value in range(SLOTS):
            again.append(main.ask(value))
            await main.rows()
        for each in (await main.rows())[-SLOTS:]:
            main.answer(each)
        assert [(await answer).labels.tolist() for answer in again] == [[value] for value in range(SLOTS)]

    run(body)


def test_a_model_that_goes_answers_what_it_was_asked_before() -> None:
    async def body() -> None:
        main = Main()
        before = main.ask(1)
        (old,) = await main.rows()
        main.load(2)
        after = main.ask(2)
        *_, new = await main.rows()
        assert (old.model, new.model) == (1, 2)
        assert [each.generation for each in main.said if isinstance(each, Applied)] == [1]
        main.answer(old)
        assert [each.generation for each in main.said if isinstance(each, Applied)] == [1, 2]
        main.answer(new)
        assert [(await answer).labels.tolist() for answer in (before, after)] == [[1], [2]]
        with pytest.raises(ModelNotFound, match="no version '1' loaded; loaded: 2"):
            main.host.find("points", "1")

    run(body)


@pytest.mark.parametrize("classes", [1, 3, 1000, 200_000])
@pytest.mark.parametrize("shape", [(1,), (2,), (3, 224, 224)])
def test_rows_and_their_answer_stay_in_their_slot(shape: tuple[int, ...], classes: int) -> None:
    signature = Signature("m", "input", "UINT8", shape, ("probabilities", "label"), 1024)
    model = Model(1, "m", 1, signature, classes)
    memory = Memory.make(slot_bytes(1024))
    count = slot_rows(model, 65536, memory.size)
    assert count >= 1
    for slot in range(SLOTS):
        memory.rows(slot, count, signature)[:] = slot + 1
    for slot in range(SLOTS - 1):
        answer = Answer(np.full((count, classes), 0.5, np.float32), np.zeros(count, np.int64))
        assert write_answer(memory, slot, answer, signature) == classes
        assert (memory.rows(slot + 1, count, signature) == slot + 2).all()
    for wrong in (-1, SLOTS):
        with pytest.raises(ValueError, match=f"slot {wrong}"):
            memory.rows(wrong, 1, signature)
    with pytest.raises(ValueError, match="can't hold"):
        memory.answer(0, memory.size, classes)


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_messages_arrive_in_whatever_pieces(piece: int) -> None:
    messages = [Rows(3, 1, 64, 60, 123456789012345, 5), Applied(7), failed(1, Overloaded("full" * 50, 2))]
    written: list[bytes] = []
    heard: list[Message] = []
    channel = Channel(heard.append, lambda: None)
    channel.say(messages[0])  # before there is a connection: nobody hears it

    class Wire(asyncio.Transport):
        def write(self, data: object) -> None:
            written.append(bytes(data))  # type: ignore[call-overload]

    channel.connection_made(Wire())
    for each in messages:
        channel.say(each)
    stream = b"".join(written)
    for start in range(0, len(stream), piece):
        channel.data_received(stream[start : start + piece])
    assert heard == messages


@pytest.fixture(scope="module")
def fronted(repository: Path) -> Iterator[Running]:
    settings = Settings(repository=repository, models=("digits", "points", "lenet"), device="cpu", fronts=2)
    with run_service(settings) as it:
        yield it


def fronts(running: Running) -> list[psutil.Process]:
    assert running.service.fronts is not None
    return [psutil.Process(front.process.pid) for front in running.service.fronts._fronts]


@pytest.mark.parametrize("data", [*BAD.values(), *GOOD.values()], ids=[*BAD, *GOOD])
def test_the_same_answers_as_without(running: Running, fronted: Running, data: bytes) -> None:
    answers = []
    for service in (running, fronted, fronted):
        with connected(service) as client:
            answers += [ask(client, data), ask(client, data)]
    assert answers == answers[:1] * 6


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("GET", "/v2/health/ready", None),
        ("GET", "/v2/models/lenet", None),
        ("GET", "/v2/models/lenet/versions/1/ready", None),
        ("GET", "/openapi.json", None),
        ("HEAD", "/docs", None),
        ("GET", "/nothing?a=b%20c", None),
        ("DELETE", "/v2/models/lenet/infer", None),
        ("POST", "/v2/repository/index", b"{}"),
        ("POST", "/v2/repository/index", b"{"),
        ("POST", "/predict/points", b'{"inputs": [[1, 2]]}'),
        ("POST", "/predict/points", b""),
        ("POST", "/predict/nothing", b'{"inputs": [[1, 2]]}'),
        ("POST", "/v2/models/points/infer", b""),
    ],
)
def test_everything_else_is_answered_by_the_main_process(
    running: Running, fronted: Running, method: str, path: str, content: bytes | None
) -> None:
    headers = {"Content-Type": "application/json"}
    answers = [service.client.request(method, path, content=content, headers=headers) for service in (running, fronted)]
    for answer in answers:
        del answer.headers["date"]
        assert len(answer.headers.pop("x-request-id")) == 32
    without, behind = [(answer.status_code, sorted(answer.headers.items()), answer.content) for answer in answers]
    assert behind == without


def test_a_body_without_a_length_and_one_that_is_too_long(fronted: Running) -> None:
    chunks = iter([b'{"inputs": ', b"[[1, 2]]}"])
    json_type = {"Content-Type": "application/json"}
    assert fronted.client.post("/predict/points", content=chunks, headers=json_type).status_code == 200
    with connected(fronted) as client:  # refused before anything of the body is there
        client.send(f"POST /predict/points HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 40}\r\n\r\n".encode())
        assert client.receive()[0] == 413


@pytest.mark.parametrize(
    "head",
    [
        "GET /v2/health/ready HTTP/1.0\r\n\r\n",  # as HAProxy asks
        "GET /v2/health/ready HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /v2/models/points HTTP/1.1\r\nHost:  a \r\nX-Spaces:   in  between  \r\n\r\n",
        "POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        (
            "GET /docs HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ),
    ],
    ids=range(5),
)
def test_unusual_requests_are_answered_as_without(running: Running, fronted: Running, head: str) -> None:
    statuses = []
    for service in (running, fronted):
        with connected(service) as client:
            client.send(head.encode())
            statuses.append(client.socket.recv(1 << 16).split(b"\r\n")[0])
    assert statuses[0] == statuses[1]
    assert b" 503 " not in statuses[1]


def test_probes_are_answered_while_bodies_take_all_the_room(serve: Serve) -> None:
    with serve(fronts=1, max_body_bytes=1 << 20, max_pending_bytes=1 << 20) as running:
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 20}\r\n\r\n".encode()
        with connected(running) as client:
            client.send(head + b" " * ((1 << 20) - 10))
            time.sleep(1)  # another request's room, while this comes in, would be the one that is missing
            wait_until(lambda: running.client.post(INFER, json=POINT).status_code == 429)
            for path in ("/v2/health/live", "/v2/health/ready", "/metrics"):
                assert running.client.get(path).status_code == 200


def test_probes_wait_for_no_request_that_is_passed_on(serve: Serve) -> None:
    with serve(fronts=1, max_delay_us=1_000_000, max_batch=4096) as running, ExitStack() as stack:
        body = json.dumps({"inputs": [[1, 2]]}).encode()
        head = f"POST /predict/points HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        clients = [stack.enter_context(connected(running)) for _ in range(3 * CONNECTIONS)]
        running.client.get("/v2/health/live")
        for client in clients:
            client.send(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        # Three rounds, each of which takes the second that a batch waits for more.
        for _ in range(4):
            time.sleep(0.3)
            began = time.monotonic()
            assert running.client.get("/v2/health/live").status_code == 200
            assert time.monotonic() - began < 1.5
        assert {client.receive()[0] for client in clients} == {200}


def test_requests_in_flight_are_counted_once_and_none_are_when_none_are(serve: Serve) -> None:
    def in_flight(running: Running) -> float:
        lines = running.client.get("/metrics").text.splitlines()
        (line,) = (line for line in lines if line.startswith("dlenv_in_flight_requests "))
        return float(line.split()[1])

    with serve(fronts=1) as running:
        for _ in range(3):
            assert running.client.post(INFER, json=POINT).status_code == 200
            assert in_flight(running) == 1  # this question itself
        time.sleep(0.2)
        assert running.service.all_in_flight == 0


def test_every_request_is_counted_once_whichever_front_answered_it(serve: Serve) -> None:
    with serve(fronts=2) as running:
        for _ in range(10):
            with httpx.Client(base_url=running.url) as client:
                for rows in (1, 3):
                    body = {"inputs": [{**POINT["inputs"][0], "shape": [rows, 2], "data": [1, 2] * rows}]}
                    assert client.post(INFER, json=body).status_code == 200
                assert client.post(INFER, content=b"{").status_code == 400
        time.sleep(0.2)  # fronts say what they counted every 50 ms
        (found,) = running.client.get("/v2/models/points/stats").json()["model_stats"]
        counts = {
            kind: found["inference_stats"][kind]["count"] for kind in ("success", "fail", "queue", "compute_infer")
        }
        assert counts == {"success": 20, "fail": 10, "queue": 20, "compute_infer": 20}
        assert found["inference_count"] == 40
        metrics = running.client.get("/metrics").text
        assert 'dlenv_requests_total{model="points",status="200",version="1"} 20.0' in metrics
        assert 'dlenv_http_errors_total{status="400"} 10.0' in metrics
        assert 'dlenv_queue_rows{model="points",version="1"} 0.0' in metrics


def version_of(answer: httpx.Response) -> str | None:
    length = answer.headers.get("inference-header-content-length")
    return str(json.loads(answer.content[: int(length)])["model_version"]) if length else None


def test_models_come_and_go_under_load_without_a_failure(serve: Serve) -> None:
    with serve(fronts=2, models=("points", "lenet/1")) as running:
        image = np.zeros((1, 1, 28, 28), np.uint8).tobytes()
        headers = {"Inference-Header-Content-Length": "0"}
        seen: list[tuple[int, str | None]] = []
        stop = threading.Event()

        def client() -> None:
            with httpx.Client(base_url=running.url, timeout=20) as http:
                while not stop.is_set():
                    answer = http.post("/v2/models/lenet/infer", content=image, headers=headers)
                    seen.append((answer.status_code, version_of(answer)))

        threads = [threading.Thread(target=client) for _ in range(4)]
        for thread in threads:
            thread.start()
        for version in (2, 1, 2):
            parameters = {
                "parameters": {"config": json.dumps({"version_policy": {"specific": {"versions": [version]}}})}
            }
            answer = running.client.post("/v2/repository/models/lenet/load", json=parameters)
            assert answer.status_code == 200, answer.text
            # No front asks for another version once the request to load is answered.
            now = running.client.post("/v2/models/lenet/infer", content=image, headers=headers)
            assert json.loads(now.content[: int(now.headers["inference-header-content-length"])])[
                "model_version"
            ] == str(version)
            time.sleep(0.2)
        stop.set()
        for thread in threads:
            thread.join(20)
        assert {status for status, _ in seen} == {200}
        assert {version for _, version in seen} == {"1", "2"}
        gone = weakref.ref(running.service.host.find("lenet"))
        assert running.client.post("/v2/repository/models/lenet/unload").status_code == 200
        wait_until(lambda: gc.collect() is not None and gone() is None)
        assert running.client.post("/v2/models/lenet/infer", content=image, headers=headers).status_code == 404


def test_a_front_that_is_killed_takes_only_its_own_connections_and_is_replaced(serve: Serve) -> None:
    with serve(fronts=2) as running:
        clients = [httpx.Client(base_url=running.url, timeout=20) for _ in range(4)]
        assert [client.post(INFER, json=POINT).status_code for client in clients] == [200] * 4
        before = fronts(running)
        victim, other = before
        victim.kill()
        outcomes = []
        for client in clients:
            try:
                outcomes.append(client.post(INFER, json=POINT).status_code)
            except httpx.HTTPError:
                outcomes.append(0)
        # Connections go round; httpx may also have opened a new one in place of a dead one.
        assert outcomes.count(200) >= 2
        assert set(outcomes) <= {0, 200}
        until = time.monotonic() + 30
        while time.monotonic() < until:
            now = fronts(running)
            assert running.service.fronts is not None
            if len(now) == 2 and all(front.ready.is_set() for front in running.service.fronts._fronts):
                break
            time.sleep(0.05)
        assert other in now
        assert victim not in now
        for client in clients:
            client.close()
        for _ in range(4):
            assert httpx.post(running.url + INFER, json=POINT).status_code == 200
        assert running.client.get("/v2/health/ready").status_code == 200
    assert not any(process.is_running() for process in now)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process can be set on Linux only")
def test_a_front_out_of_descriptors_takes_connections_again_when_it_has_some(serve: Serve) -> None:
    import resource

    with serve(fronts=1) as running:
        assert running.client.post(INFER, json=POINT).status_code == 200
        (front,) = fronts(running)
        limits = resource.prlimit(front.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(front.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        for _ in range(3):
            with pytest.raises(httpx.HTTPError):
                httpx.post(running.url + INFER, json=POINT, timeout=5)
        resource.prlimit(front.pid, resource.RLIMIT_NOFILE, limits)
        assert httpx.post(running.url + INFER, json=POINT, timeout=20).status_code == 200


def test_a_front_that_is_stuck_is_replaced(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "SILENCE", 2)
    with serve(fronts=1) as running:
        (stuck,) = fronts(running)
        stuck.suspend()
        wait_until(lambda: fronts(running) not in ([], [stuck]))
        wait_until(lambda: running.service.fronts._fronts[0].ready.is_set())  # type: ignore[union-attr]
        assert httpx.post(running.url + INFER, json=POINT, timeout=20).status_code == 200


def test_fronts_that_do_not_start_say_so_and_leave_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(child, "command", lambda module, *words: [sys.executable, "-c", "import sys; sys.exit(3)"])
    before = psutil.Process().num_fds()
    with pytest.raises(StartError, match="ended as it started"), serve(fronts=2):
        pass
    assert [*tmp_path.iterdir()] == []
    gc.collect()
    assert psutil.Process().num_fds() <= before
    monkeypatch.setattr(keeper, "START_S", 0.5)
    monkeypatch.setattr(child, "command", lambda module, *words: [sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(StartError, match="did not start within"), serve(fronts=1):
        pass


def test_modules_of_the_working_directory_are_not_run(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('run')")
    monkeypatch.chdir(tmp_path)
    with serve(fronts=1) as running:
        assert running.client.post(INFER, json=POINT).status_code == 200


@pytest.mark.parametrize("count", [0, 1])
def test_a_model_that_goes_while_the_device_is_stuck_leaves_nobody_waiting(serve: Serve, count: int) -> None:
    with serve(fronts=count, models=("points", "lenet/1"), deadline_ms=700) as running:
        worker = running.service.host._worker
        assert worker is not None
        release = threading.Event()
        image = np.zeros((1, 1, 28, 28), np.uint8).tobytes()
        statuses: list[int] = []

        def client() -> None:
            headers = {"Inference-Header-Content-Length": "0"}
            url = running.url + "/v2/models/lenet/infer"
            statuses.append(httpx.post(url, content=image, headers=headers, timeout=20).status_code)

        assert running.client.post("/v2/models/lenet/infer", json={}).status_code == 400
        worker.call(lambda: release.wait(20))
        threads = [threading.Thread(target=client) for _ in range(SLOTS + 4)]
        try:
            for thread in threads:
                thread.start()
            wait_until(lambda: running.service.queued_rows > 0)
            assert running.client.post("/v2/repository/models/lenet/unload", timeout=20).status_code == 200
            for thread in threads:
                thread.join(20)
        finally:
            release.set()
        assert len(statuses) == len(threads)
        assert set(statuses) <= {404, 503, 504}
        assert 504 in statuses
        wait_until(lambda: running.service.all_in_flight == 0)
        for _ in range(2 * SLOTS):
            assert running.client.post(INFER, json=POINT).status_code == 200


def test_a_front_ends_with_the_main_process_and_loads_no_pytorch(serve: Serve) -> None:
    with serve(fronts=1) as running:
        (front,) = fronts(running)
        front.send_signal(signal.SIGTERM)  # of a supervisor that sends it to everybody: the main process decides
        front.send_signal(signal.SIGINT)
        assert running.client.post(INFER, json=POINT).status_code == 200
        assert front.is_running()
        if sys.platform == "linux":
            assert "libtorch" not in Path(f"/proc/{front.pid}/maps").read_text()
    assert not front.is_running()


def test_a_device_that_takes_nothing_is_answered_429_and_504(serve: Serve) -> None:
    with serve(fronts=1, max_rows=8, max_queue_rows=8, max_batch=4, deadline_ms=600) as running:
        worker = running.service.host._worker
        assert worker is not None
        release = threading.Event()
        worker.call(lambda: release.wait(20))
        statuses: list[int] = []

        def client() -> None:
            body = {"inputs": [{**POINT["inputs"][0], "shape": [4, 2], "data": [1, 2] * 4}]}
            statuses.append(httpx.post(running.url + INFER, json=body, timeout=20).status_code)

        threads = [threading.Thread(target=client) for _ in range(SLOTS + 8)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
        finally:
            release.set()
        assert set(statuses) == {429, 504}
        assert running.client.post(INFER, json=POINT).status_code == 200


def test_fronts_speak_tls_and_the_main_process_hears_of_the_client(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "192.0.2.7")  # uvicorn trusts this machine by default
    certificate, key, audit = tmp_path / "certificate.pem", tmp_path / "key.pem", tmp_path / "audit"
    certificates.make(certificate, key)
    with serve(runtime="local", fronts=1, tls_certificate=certificate, tls_key=key, audit_log=audit) as running:
        url = running.url.replace("http:", "https:")
        with httpx.Client(base_url=url, verify=ssl.create_default_context(cafile=certificate)) as client:
            for _ in range(2):
                assert client.post(INFER, json=POINT).status_code == 200
            forged = {"X-Forwarded-For": "192.0.2.1"}
            assert client.post("/v2/repository/models/lenet/unload", headers=forged).status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            running.client.get("/v2")
    assert "client='127.0.0.1'" in audit.read_text()


def test_keys_are_checked_in_fronts_too(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    key = keyfile.add(path, "me", ("infer",))
    with serve(fronts=1, keys=path) as running:
        known = {"Authorization": f"Bearer {key}"}
        for route, body in ((INFER, POINT), ("/predict/points", {"inputs": [[1, 2]]})):
            for _ in range(3):
                assert running.client.post(route, json=body).status_code == 401
                assert running.client.post(route, json=body, headers=known).status_code == 200
        assert running.client.post("/v2/repository/models/lenet/unload", headers=known).status_code == 403
        keyfile.remove(path, "me")
        time.sleep(2)
        assert running.client.post(INFER, json=POINT, headers=known).status_code == 401
