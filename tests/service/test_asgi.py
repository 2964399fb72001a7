"""The application itself, called as an ASGI server would: what no HTTP client can do, and what a host relies on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import orjson
import pytest
from serving import Running

from dlenv.errors import Overloaded, Unavailable
from dlenv_service import host
from dlenv_service.http import MAX_CHUNKS

Serve = Callable[..., AbstractContextManager[Running]]
POINT = {"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}


async def call(running: Running, messages: Iterable[dict[str, Any]], **scope: Any) -> tuple[int, dict[str, Any]]:
    """One request by hand; the answer's status and JSON."""
    coming = iter(messages)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next(coming)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    given = {"type": "http", "method": "POST", "path": "/v2/models/points/infer", "headers": [], **scope}
    await running.service(given, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return sent[0]["status"], orjson.loads(sent[1]["body"])


def test_a_body_in_many_pieces_is_put_together(running: Running) -> None:
    content = orjson.dumps(POINT)
    pieces = [
        {"type": "http.request", "body": content[n : n + 7], "more_body": True} for n in range(0, len(content), 7)
    ]
    status, document = running.run(call(running, [*pieces, {"type": "http.request"}]))  # type: ignore[misc]
    assert (status, document["model_name"]) == (200, "points")


def test_a_body_in_absurdly_many_pieces_is_refused(running: Running) -> None:
    read = 0

    def pieces() -> Iterable[dict[str, Any]]:
        nonlocal read
        while True:
            read += 1
            yield {"type": "http.request", "body": b" ", "more_body": True}

    status, document = running.run(call(running, pieces()))  # type: ignore[misc]
    assert status == 400
    assert document == {"error": f"the body came in more than {MAX_CHUNKS} pieces; send larger ones"}
    assert read == MAX_CHUNKS + 1


@pytest.mark.parametrize("before", [0, 3])
def test_a_client_that_leaves_is_told_so_in_vain(running: Running, before: int) -> None:
    messages = [{"type": "http.request", "body": b"{", "more_body": True}] * before
    status, document = running.run(call(running, [*messages, {"type": "http.disconnect"}]))  # type: ignore[misc]
    assert status == 400
    assert "the connection was closed before the body was complete" in document["error"]


def test_websockets_are_closed_and_lifespan_events_answered(running: Running) -> None:
    async def talk(kind: str, *messages: str) -> list[str]:
        coming = iter(messages)
        sent: list[str] = []

        async def receive() -> dict[str, Any]:
            return {"type": next(coming)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message["type"])

        await running.service({"type": kind}, receive, send)
        return sent

    assert running.run(talk("websocket", "websocket.connect")) == ["websocket.close"]
    assert running.run(talk("lifespan", "lifespan.startup", "lifespan.shutdown")) == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


def test_only_inference_goes_the_short_way(running: Running) -> None:
    def short(method: str, path: str, kind: str = "http") -> bool:
        return running.service.answers_here({"type": kind, "method": method, "path": path})

    assert short("POST", "/v2/models/points/infer")
    assert short("POST", "/v2/models/points/versions/1/infer")
    assert short("POST", "/predict/points")
    assert not short("GET", "/v2/models/points/infer")
    assert not short("POST", "/v2/repository/models/points/load")
    assert not short("GET", "/metrics")
    assert not short("POST", "/predict/points", kind="websocket")


def test_too_many_images_at_once_are_refused(serve: Serve) -> None:
    with serve() as running:
        running.service.decoding = 100
        response = running.client.post("/predict/digits", content=b"", headers={"content-type": "image/png"})
        assert (response.status_code, response.headers["retry-after"]) == (429, "1")
        assert "100 images wait to be decoded" in response.json()["error"]
        running.service.decoding = 0
        assert running.client.post("/predict/digits", content=b"").status_code == 400
        assert running.service.decoding == 0


def test_a_device_that_makes_no_progress_is_unhealthy(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "STALLED_AFTER_S", 0.1)
    with serve(deadline_ms=50) as running:
        running.service.check_health()
        release = threading.Event()
        model = running.service.host.find("points").lane.runner._model  # type: ignore[attr-defined]
        hook = model.register_forward_pre_hook(lambda *_: release.wait(20) and None)
        asking = threading.Thread(target=lambda: httpx.post(running.url + "/v2/models/points/infer", json=POINT))
        asking.start()
        time.sleep(0.3)
        with pytest.raises(Unavailable, match="no progress for"):
            running.service.check_health()
        release.set()
        asking.join()
        hook.remove()
        running.client.post("/v2/models/points/infer", json=POINT)
        running.service.check_health()


def test_what_waits_when_the_service_closes_is_answered_with_503(serve: Serve) -> None:
    with serve() as running:
        release = threading.Event()
        running.service.host._worker.call(lambda: release.wait(20))  # type: ignore[union-attr]
        answers: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(running.url + "/v2/models/points/infer", json=POINT))
        )
        asking.start()
        while not running.service.queued_rows:
            time.sleep(0.005)
        closing = asyncio.run_coroutine_threadsafe(running.service.close(), running.loop)
        asking.join(10)
        release.set()
        closing.result(10)
        assert answers[0].status_code == 503
        assert "the service is stopping" in answers[0].json()["error"]


def test_bodies_of_all_requests_together_are_limited(serve: Serve) -> None:
    with serve(max_body_bytes=1024, max_pending_bytes=2048) as running:
        with running.service.room({"headers": []}) as take, running.service.room({"headers": []}) as other:
            take(1024, False)
            other(900, False)
            response = running.client.post("/v2/models/points/infer", json=POINT)
            assert response.status_code == 200
            refused = running.client.post(
                "/v2/models/points/infer", content=b" " * 200, headers={"Content-Type": "application/json"}
            )
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
            assert "1924 bytes and 200 more would pass the limit of 2048" in refused.json()["error"]
            with pytest.raises(Overloaded), running.service.room({"headers": [(b"content-length", b"200")]}):
                pass
        assert running.service.body_bytes == 0
        with running.service.room({"headers": []}) as take:
            with pytest.raises(Overloaded):
                take(1537, True)  # a quarter is left to what comes at once
            take(1536, True)
            take(512, False)
        assert running.service.body_bytes == 0
