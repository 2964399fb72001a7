"""Bad input over real HTTP: the right status, one sentence for the user, nothing of the insides, and no harm done."""

from __future__ import annotations

import http.client
import io
import json
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from serving import Running, publish, run_service

from dlenv.errors import Unavailable
from dlenv_service.config import Settings

ZEROS = np.zeros((1, 1, 28, 28), np.uint8)
POINT = {"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
INFER = "/v2/models/points/infer"
JSON = {"content-type": "application/json"}
PNG = {"content-type": "image/png"}

INTERNALS = re.compile(r"Traceback|site-packages|dlenv_|/tmp|/home|/root|/usr|\.py\b|<class|<_io|object at 0x|Error\b")


def png(size: tuple[int, int] = (28, 28), colour: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("L", size, colour).save(file, "PNG")
    return file.getvalue()


def huge_png() -> bytes:
    """A few bytes whose header claims 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def sentence(response: httpx.Response) -> str:
    """The text of an error, after checking that it is fit for a user."""
    document = response.json()
    assert list(document) == ["error"]
    text: str = document["error"]
    assert text.isprintable(), text
    assert 20 < len(text) < 500
    assert not INTERNALS.search(text), text
    assert response.headers["content-type"] == "application/json"
    return text


@contextmanager
def busy(running: Running) -> Iterator[None]:
    """The device works on something else meanwhile, so that requests wait."""
    release = threading.Event()
    began = threading.Event()

    def job() -> None:
        began.set()
        release.wait(20)

    worker = running.service.host._worker
    assert worker is not None
    worker.call(job)
    assert began.wait(5)
    try:
        yield
    finally:
        release.set()


def answers(running: Running) -> bool:
    """The service still answers correctly."""
    response = running.client.post(INFER, json=POINT)
    return response.status_code == 200 and sum(response.json()["outputs"][0]["data"]) == pytest.approx(1, abs=1e-5)


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


# Requests that httpx can send

HOSTILE = "\x1b[31m" + "x" * 10_000
Request = tuple[str, str, dict[str, Any]]
BAD: dict[str, tuple[Request, int, tuple[str, ...]]] = {
    "unknown path": (("GET", "/v3", {}), 404, ("'/v3'", "/v2")),
    "path nearly right": (("GET", "/v2/health/reddy", {}), 404, ("reddy", "did you mean /v2/health/ready")),
    "path under a path": (("GET", "/v2/health/ready/x", {}), 404, ("no such path",)),
    "path called name": (("GET", "/v2/name", {}), 404, ("'/v2/name'",)),
    "path of braces": (("GET", "/v2/models/{}/ready", {}), 404, ("'{}'", "loaded: digits, lenet, points")),
    "wrong method": (("GET", INFER, {}), 405, (INFER, "GET", "send POST")),
    "delete": (("DELETE", "/v2/models/points", {}), 405, ("DELETE", "send GET, HEAD")),
    "unheard-of method": (("PROPFIND", "/metrics", {}), 405, ("PROPFIND", "send GET, HEAD")),
    "unknown model": (("POST", "/v2/models/nobody/infer", {"json": POINT}), 404, ("'nobody'", "digits, lenet, points")),
    "unknown model to predict": (("POST", "/predict/nobody", {"json": {}}), 404, ("'nobody'", "digits, lenet, points")),
    "unknown version": (
        ("POST", "/v2/models/points/versions/7/infer", {"json": POINT}),
        404,
        ("'points'", "version '7'", "loaded: 1"),
    ),
    "version not a number": (("GET", "/v2/models/points/versions/x", {}), 404, ("version 'x'", "loaded: 1")),
    "version of 5,000 digits": (("GET", f"/v2/models/points/versions/{'9' * 5000}", {}), 404, ("99...", "loaded: 1")),
    "dots for a model": (("GET", "/v2/models/%2e%2e", {}), 404, ("'..'", "loaded:")),
    "dots and slashes for a model": (("GET", "/v2/models/..%2f..%2fetc/ready", {}), 404, ("etc",)),
    "NUL for a model": (("GET", "/v2/models/%00", {}), 404, ("'\\x00'", "loaded:")),
    "bytes that are no UTF-8": (("GET", "/v2/models/%ff%fe", {}), 404, ("\\ufffd", "loaded:")),
    "terminal escapes and 10 kB for a model": (
        ("GET", f"/v2/models/{quote(HOSTILE)}", {}),
        404,
        ("\\x1b[31mxxx", "..."),
    ),
    "the same as a path": (("GET", f"/{quote(HOSTILE)}", {}), 404, ("\\x1b[31mxxx", "/docs")),
    "the same with a wrong method": (("GET", f"/predict/{quote(HOSTILE)}", {}), 405, ("\\x1b[31mxxx", "send POST")),
    "the same to load": (("POST", f"/v2/repository/models/{quote(HOSTILE)}/load", {}), 404, ("\\x1b[31mx", "...")),
    "dots to load": (("POST", "/v2/repository/models/%2e%2e/load", {}), 404, ("'..'", "there is")),
    "NUL to load": (("POST", "/v2/repository/models/%00/load", {}), 404, ("'\\x00'", "there is")),
    "wrong content type": (
        ("POST", INFER, {"content": b"a=1", "headers": {"content-type": "application/x-www-form-urlencoded"}}),
        415,
        ("application/x-www-form-urlencoded", "application/json"),
    ),
    "a hostile content type": (
        ("POST", INFER, {"content": b"", "headers": {b"content-type": b"\x9b\xff" + b"y" * 5000}}),
        415,
        ("\\x9b", "application/json"),
    ),
    "a compressed body": (
        ("POST", INFER, {"content": b"\x1f\x8b", "headers": {**JSON, "content-encoding": "gzip"}}),
        415,
        ("'gzip'", "uncompressed"),
    ),
    "no JSON": (("POST", INFER, {"content": b"{", "headers": JSON}), 400, ("not valid JSON", "JSON object")),
    "no body": (("POST", INFER, {}), 400, ("not valid JSON", "JSON object")),
    "wrong shape": (
        ("POST", INFER, {"json": {"inputs": [{**POINT["inputs"][0], "shape": [1, 3]}]}}),
        422,
        ("[1,3]", "[-1,2]"),
    ),
    "too many rows": (
        ("POST", INFER, {"json": {"inputs": [{**POINT["inputs"][0], "shape": [5000, 2]}]}}),
        413,
        ("5000 rows", "1024"),
    ),
    "values that overflow": (
        ("POST", INFER, {"json": {"inputs": [{**POINT["inputs"][0], "data": [3e38, -3e38]}]}}),
        422,
        ("row 0", "'points'", "smaller"),
    ),
    "header longer than the body": (
        ("POST", INFER, {"content": b"{}", "headers": {"inference-header-content-length": "9"}}),
        400,
        ("Inference-Header-Content-Length is 9", "2 bytes"),
    ),
    "an empty image": (("POST", "/predict/digits", {"content": b"", "headers": PNG}), 400, ("empty (0 bytes)", "PNG")),
    "half an image": (
        ("POST", "/predict/digits", {"content": png((200, 200), 9)[:60], "headers": PNG}),
        400,
        ("truncated or damaged", "whole file"),
    ),
    "an image of huge dimensions": (
        ("POST", "/predict/digits", {"content": huge_png(), "headers": PNG}),
        413,
        ("too many pixels", "16,000,000"),
    ),
    "no image": (
        ("POST", "/predict/digits", {"content": b"GIF89a....", "headers": PNG}),
        415,
        ("looks like GIF", "PNG, JPEG or WebP"),
    ),
    "an image as something else": (
        ("POST", "/predict/digits", {"content": png(), "headers": {"content-type": "image/gif"}}),
        415,
        ("'image/gif'", "image/png"),
    ),
    "an image for a model of points": (
        ("POST", "/predict/points", {"content": png(), "headers": PNG}),
        422,
        ("'points'", "2 numbers", "not images"),
    ),
    "points for a model of images": (
        ("POST", "/predict/digits", {"json": {"inputs": [[1, 2]]}}),
        422,
        ("2 elements", "784", "[-1,1,28,28]"),
    ),
    "invert for a model of points": (
        ("POST", "/predict/points?invert=true", {"json": {"inputs": [[1, 2]]}}),
        422,
        ("invert", "'points'", "leave it out"),
    ),
    "invert neither true nor false": (
        ("POST", "/predict/digits?invert=yes%1b", {"content": png(), "headers": PNG}),
        400,
        ("invert=yes\\x1b", "invert=true"),
    ),
    "another query": (("POST", "/predict/digits?x=1", {"content": png(), "headers": PNG}), 400, ("'x=1'", "invert")),
    "other keys to predict": (("POST", "/predict/points", {"json": {"rows": []}}), 400, ('"inputs"', "'rows'")),
    "no rows to predict": (("POST", "/predict/points", {"json": {"inputs": []}}), 422, ("zero rows", "at least one")),
    "rows that are no list": (("POST", "/predict/points", {"json": {"inputs": 5}}), 400, ("array", "number")),
    "ragged rows": (("POST", "/predict/points", {"json": {"inputs": [[1], [1, 2]]}}), 400, ("ragged", "[-1,2]")),
    "too many rows to predict": (
        ("POST", "/predict/points", {"json": {"inputs": [[1, 2]] * 1025}}),
        413,
        ("1025 rows", "1024"),
    ),
    "index with a word for ready": (
        ("POST", "/v2/repository/index", {"json": {"ready": "yes"}}),
        400,
        ("ready is 'yes'", "true or false"),
    ),
    "a model sent to load": (
        ("POST", "/v2/repository/models/points/load", {"json": {"parameters": {"file:1/model.pt": "QUJD"}}}),
        422,
        ("'file:1/model.pt'", "publish"),
    ),
    "config that is no string": (
        ("POST", "/v2/repository/models/points/load", {"json": {"parameters": {"config": {}}}}),
        400,
        ("config", "string"),
    ),
    "config with more in it": (
        ("POST", "/v2/repository/models/points/load", {"json": {"parameters": {"config": '{"backend": "python"}'}}}),
        422,
        ("version_policy",),
    ),
    "a policy unheard of": (
        (
            "POST",
            "/v2/repository/models/points/load",
            {"json": {"parameters": {"config": '{"version_policy": {"specific": {"versions": ["1"]}}}'}}},
        ),
        422,
        ("version_policy", "specific.versions"),
    ),
    "a version to load that is not there": (
        (
            "POST",
            "/v2/repository/models/points/load",
            {"json": {"parameters": {"config": '{"version_policy": {"specific": {"versions": [9]}}}'}}},
        ),
        404,
        ("points", "version 9", "there is 1"),
    ),
    "unload what is not loaded": (("POST", "/v2/repository/models/x/unload", {}), 404, ("'x'", "loaded:")),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_its_status_and_one_sentence(running: Running, case: str) -> None:
    (method, path, given), status, words = BAD[case]
    response = running.client.request(method, path, **given)
    text = sentence(response)
    assert response.status_code == status, text
    for word in words:
        assert word in text
    if status == 405:
        assert response.headers["allow"] in ("POST", "GET, HEAD")
    assert answers(running)
    assert running.service.errors[500] == 0  # nothing that the log would have to explain


def test_head_answers_like_get_without_the_body(running: Running) -> None:
    for path in ("/v2/health/ready", "/metrics", "/v2/models/points"):
        response = running.client.head(path)
        assert (response.status_code, response.content) == (200, b"")
        assert int(response.headers["content-length"]) > 10


def test_invert_turns_dark_on_light_into_light_on_dark(running: Running) -> None:
    random = np.random.default_rng(3).integers(0, 256, (28, 28), dtype=np.uint8)
    pictures = []
    for pixels in (random, 255 - random):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        pictures.append(file.getvalue())
    plain = running.client.post("/predict/digits", content=pictures[0], headers=PNG).json()
    inverted = running.client.post("/predict/digits?invert=true", content=pictures[1], headers=PNG).json()
    as_json = running.client.post("/predict/digits?invert=true", json={"inputs": (255 - random)[None].tolist()}).json()
    other = running.client.post("/predict/digits", content=pictures[1], headers=PNG).json()
    assert plain == inverted == as_json
    assert plain != other


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("header", ["named", "octet-stream", None])
def test_predict_reads_each_format_whatever_it_is_called(running: Running, kind: str, header: str | None) -> None:
    file = io.BytesIO()
    Image.new("RGB", (50, 40), (200, 100, 0)).save(file, kind)
    named = {"named": f"image/{kind.lower()}", "octet-stream": "application/octet-stream", None: None}[header]
    response = running.client.post(
        "/predict/digits", content=file.getvalue(), headers={"content-type": named} if named else {}
    )
    (prediction,) = response.json()["predictions"]
    assert prediction["label"] == max(prediction["probabilities"], key=prediction["probabilities"].get)
    assert prediction["probability"] == max(prediction["probabilities"].values())
    assert list(prediction["probabilities"]) == [str(digit) for digit in range(10)]


def test_a_model_called_like_a_path_can_be_reached(tmp_path: Path, serve: Callable[..., Any]) -> None:
    publish(tmp_path, "stats", input_shape=[2], classes=3)
    with serve(repository=tmp_path, models=("stats",)) as running:
        assert running.client.post("/v2/models/stats/infer", json=POINT).json()["model_name"] == "stats"
        assert running.client.get("/v2/models/stats/ready").status_code == 200
        assert running.client.get("/v2/models/stats/stats").json()["model_stats"][0]["inference_count"] == 1


# Requests on a socket of their own


@contextmanager
def connection(running: Running) -> Iterator[socket.socket]:
    host, port = running.address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as raw:
        yield raw


def head(path: str = INFER, method: str = "POST", **headers: object) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def read(raw: socket.socket) -> tuple[int, dict[str, Any]]:
    response = http.client.HTTPResponse(raw)
    response.begin()
    return response.status, json.loads(response.read())


Serve = Callable[..., AbstractContextManager[Running]]


@pytest.fixture(scope="module")
def strict(repository: Path) -> Iterator[Running]:
    """A service with small limits."""
    limits = {"max_body_bytes": 4096, "body_timeout_ms": 1000, "max_pixels": 900, "max_rows": 4, "max_queue_rows": 4}
    with run_service(
        Settings(repository=repository, models=("digits", "points"), device="cpu", deadline_ms=1000, **limits)
    ) as it:
        yield it


def test_a_body_over_the_limit_is_refused_by_its_header_before_it_is_sent(strict: Running) -> None:
    with connection(strict) as raw:
        raw.sendall(head(Content_Length=4097))
        status, document = read(raw)
    assert (status, document["error"]) == (
        413,
        "the body has 4097 bytes and may have 4096; send less in one request",
    )
    assert answers(strict)


def test_a_body_over_the_limit_is_refused_while_it_streams(strict: Running) -> None:
    with connection(strict) as raw:
        raw.sendall(head(Transfer_Encoding="chunked"))
        for _ in range(5):
            raw.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
        status, document = read(raw)  # the last chunk never comes
    assert (status, document["error"]) == (413, "the body is larger than 4096 bytes; send less in one request")
    assert answers(strict)


def test_a_chunked_body_within_the_limit_is_read(strict: Running) -> None:
    content = json.dumps(POINT).encode()
    with connection(strict) as raw:
        raw.sendall(head(Transfer_Encoding="chunked"))
        for byte in content:
            raw.sendall(b"1\r\n" + bytes([byte]) + b"\r\n")
        raw.sendall(b"0\r\n\r\n")
        status, document = read(raw)
    assert (status, document["model_name"]) == (200, "points")


def test_a_flood_of_chunks_does_no_harm(running: Running) -> None:
    with connection(running) as raw:
        raw.sendall(head(Transfer_Encoding="chunked"))
        for _ in range(30):
            raw.sendall(b"1\r\n \r\n" * 1000)
        raw.sendall(b"0\r\n\r\n")
        status, document = read(raw)
    assert status == 400
    assert "pieces" in document["error"] or "not valid JSON" in document["error"]
    assert answers(running)


def test_a_slow_body_is_given_up(strict: Running) -> None:
    with connection(strict) as raw:
        raw.sendall(head(Content_Length=100) + b"{")
        began = time.monotonic()
        status, document = read(raw)
        assert 0.9 < time.monotonic() - began < 8
    assert (status, document["error"]) == (
        408,
        "the body did not arrive within 1000 ms; send it faster, or less of it",
    )
    assert answers(strict)


def test_a_client_that_leaves_in_the_middle_of_its_body_is_forgotten(running: Running) -> None:
    before = running.service.errors[400]
    for _ in range(5):
        with connection(running) as raw:
            raw.sendall(head(Content_Length=100) + b"{")
            wait_until(lambda: running.service.in_flight > 0)
    wait_until(lambda: running.service.in_flight == 0)
    assert running.service.errors[400] == before + 5
    assert answers(running)


def test_a_client_that_leaves_while_it_waits_is_forgotten(running: Running) -> None:
    content = json.dumps(POINT).encode()
    with busy(running):
        for _ in range(3):
            with connection(running) as raw:
                raw.sendall(head(Content_Length=len(content)) + content)
                wait_until(lambda: running.service.queued_rows > 0)
    wait_until(lambda: running.service.in_flight == 0)
    assert running.service.queued_rows == 0
    assert answers(running)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"BREW / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # how TLS begins
    ],
)
def test_what_is_no_http_is_refused_by_the_server(running: Running, garbage: bytes) -> None:
    with connection(running) as raw:
        raw.sendall(garbage)
        raw.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while part := raw.recv(4096):
                answer += part
        except ConnectionResetError:
            pass
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer
    assert b"Traceback" not in answer
    assert answers(running)


@pytest.mark.parametrize("hosts", [(), ("a", "b"), ("a", "a")])
def test_a_request_names_one_host(running: Running, hosts: tuple[str, ...]) -> None:
    body = json.dumps(POINT).encode()
    lines = [f"POST {INFER} HTTP/1.1", f"Content-Length: {len(body)}", *(f"Host: {name}" for name in hosts)]
    for _ in range(2):  # a head that was refused is not known the next time
        with connection(running) as raw:
            raw.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            answer = b"".join(iter(lambda: raw.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert f"the request has {len(hosts)} Host headers".encode() in answer
    with connection(running) as raw:  # HTTP/1.0 knows none
        raw.sendall(b"GET /v2/health/ready HTTP/1.0\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert answers(running)


# Limits that depend on load


def test_a_request_past_its_deadline_gets_504_while_the_device_is_busy(strict: Running) -> None:
    with busy(strict):
        response = strict.client.post(INFER, json=POINT)
    assert response.status_code == 504
    assert re.search(r"not answered within the deadline: 1\d\d\d ms have passed; send less", sentence(response))
    assert answers(strict)


def test_a_request_may_lower_its_deadline_but_not_raise_it(strict: Running) -> None:
    waited = {}
    with busy(strict):
        for timeout in (100_000, 3_600_000_000):
            began = time.monotonic()
            response = strict.client.post(INFER, json={**POINT, "parameters": {"timeout": timeout}})
            waited[timeout] = time.monotonic() - began
            assert response.status_code == 504
    assert 0.09 < waited[100_000] < 0.95 < waited[3_600_000_000] < 5


def test_a_full_queue_gets_429_and_when_to_try_again(strict: Running) -> None:
    rows = {"inputs": [{"name": "input", "shape": [4, 2], "datatype": "FP32", "data": [1] * 8}]}
    with busy(strict):
        waiting = threading.Thread(target=lambda: strict.client.post(INFER, json=rows))
        waiting.start()
        wait_until(lambda: strict.service.queued_rows == 4)
        response = strict.client.post(INFER, json=POINT)
        text = sentence(response)
        assert strict.client.post("/predict/digits", content=png(), headers=PNG).status_code == 504
    waiting.join()
    assert response.status_code == 429
    assert "4 rows wait and 1 more would pass its limit of 4" in text
    assert 1 <= int(response.headers["retry-after"]) <= 30
    assert answers(strict)


def test_the_limits_of_rows_and_pixels_are_settings(strict: Running) -> None:
    rows = {"inputs": [{"name": "input", "shape": [5, 2], "datatype": "FP32", "data": [1] * 10}]}
    response = strict.client.post(INFER, json=rows)
    assert (response.status_code, "5 rows" in sentence(response)) == (413, True)
    response = strict.client.post("/predict/digits", content=png((31, 31)), headers=PNG)
    assert (response.status_code, "961" in sentence(response)) == (413, True)
    assert strict.client.post("/predict/digits", content=png((30, 30)), headers=PNG).status_code == 200


def test_a_failing_batch_is_500_without_the_reason_and_the_next_one_is_answered(serve: Serve) -> None:
    with serve() as running:
        module = running.service.host.find("points").lane.runner._model  # type: ignore[attr-defined]
        mean, module.mean = module.mean, torch.zeros(5)  # broadcasts with nothing that comes in
        for failed in (1, 2, 3):
            assert running.client.get("/v2/health/ready").status_code == 200
            response = running.client.post(INFER, json=POINT)
            assert response.status_code == 500
            assert sentence(response).startswith("the model failed on the batch that this request was in")
            assert running.service.errors[500] == failed
        # A device that fails again and again is not ready, and a replica with it is replaced.
        assert running.client.get("/v2/health/ready").status_code == 503
        with pytest.raises(Unavailable, match="the last 3 batches of model 'points' failed"):
            running.service.check_health()
        module.mean = mean
        assert answers(running)
        assert running.client.get("/v2/health/ready").status_code == 200
        statistics = running.service.host.find("points").statistics
        assert (statistics.failed_batches, statistics.requests[500]) == (3, 3)


def test_a_repository_that_vanished_is_500_without_its_path(tmp_path: Path, serve: Serve) -> None:
    root = tmp_path / "root"
    publish(root, "points", input_shape=[2], classes=3)
    with serve(repository=root, models=("points",)) as running:
        root.rename(tmp_path / "gone")
        root.write_text("a file now")
        response = running.client.post("/v2/repository/index")
        assert response.status_code == 500
        assert str(tmp_path) not in response.text
        assert answers(running)


# A service that is not ready


def test_before_the_start_and_while_draining(serve: Serve) -> None:
    with serve() as running:
        running.service.started = False
        for path in (INFER, "/predict/points", "/v2/repository/index", "/v2/repository/models/points/load"):
            response = running.client.post(path, json=POINT)
            assert (response.status_code, "not ready" in sentence(response)) == (503, True)
        assert running.client.get("/v2/health/live").status_code == 200
        assert running.client.get("/v2/health/ready").status_code == 503
        running.service.started = True
        running.run(running.service.drain())
        assert running.client.get("/v2/health/ready").status_code == 503
        assert running.client.get("/v2/models/points/ready").status_code == 503
        response = running.client.post(INFER, json=POINT)  # what still comes in is answered
        assert (response.status_code, response.headers["connection"]) == (200, "close")


def test_drain_waits_for_what_has_arrived(serve: Serve) -> None:
    with serve() as running:
        box: list[httpx.Response] = []
        with busy(running):
            asking = threading.Thread(target=lambda: box.append(running.client.post(INFER, json=POINT)))
            asking.start()
            wait_until(lambda: running.service.queued_rows == 1)
            draining = threading.Thread(target=lambda: running.run(running.service.drain()))
            draining.start()
            time.sleep(0.1)
            assert draining.is_alive()
        draining.join(5)
        asking.join(5)
        assert not draining.is_alive()
        assert box[0].status_code == 200
