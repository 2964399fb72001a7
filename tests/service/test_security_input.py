"""Bodies that are small on the way and large in memory, or quick to send and slow to read: nobody else waits for them.

What is wrong with each is told in one sentence (tests/service/test_http.py, test_codec.py); here it is how long others
wait meanwhile, and what it takes. The shapes of heads, connections and chunks are in test_security_limits.py, requests
in requests in test_security_nginx.py, files of models in tests/models, archives and mirrors in tests/cli.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
from peak import grows_at_most
from PIL import Image
from serving import Running, run_service
from test_http import POINT, answers, sentence

from dlenv_service.config import Settings

Serve = Callable[..., AbstractContextManager[Running]]

MOST = 16 * 2**20  # bytes of a body
# How long others may wait for an answer while a body is read: both cores may have other work, too.
PATIENCE_S = 3.0
PNG = {"content-type": "image/png"}
JPEG = {"content-type": "image/jpeg"}
WEBP = {"content-type": "image/webp"}
JSON = {"content-type": "application/json"}
RAW = {"inference-header-content-length": "0"}


def filled(start: bytes, unit: bytes, end: bytes = b"") -> bytes:
    return start + unit * ((MOST - len(start) - len(end)) // len(unit)) + end


def input_of(**tensor: object) -> bytes:
    return json.dumps({"inputs": [{**POINT["inputs"][0], **tensor}]}).encode()


NUMBERS = filled(b"[", b"1,", b"1]")
BODIES: dict[str, tuple[str, dict[str, str], bytes]] = {
    "lists in lists": ("infer", JSON, filled(b"", b"[")),
    "objects in objects": ("infer", JSON, filled(b"", b'{"a":')),
    "lists in data": ("infer", JSON, b'{"inputs":[{"name":"input","data":' + filled(b"", b"[")[:-100] + b"}]}"),
    "eight million numbers": ("infer", JSON, input_of().replace(b"[1, 2]}", NUMBERS[:-200].rstrip(b",") + b"]}")),
    "eight million numbers for people": ("predict", JSON, b'{"inputs":' + NUMBERS[:-20].rstrip(b",") + b"]}"),
    "eight million rows": ("predict", JSON, b'{"inputs":' + filled(b"[", b"[],")[:-21].rstrip(b",") + b"]}"),
    "eight million inputs": ("infer", JSON, b'{"inputs":' + filled(b"[", b"{},")[:-21].rstrip(b",") + b"]}"),
    "a number of 16 million digits": ("infer", JSON, b'{"id":' + filled(b"", b"9")[:-10] + b"}"),
    "a fraction of 16 million digits": ("infer", JSON, b'{"id":0.' + filled(b"", b"9")[:-10] + b"}"),
    "an exponent of 16 million digits": ("infer", JSON, b'{"id":1e' + filled(b"", b"9")[:-10] + b"}"),
    "numbers that overflow": ("infer", JSON, filled(b'{"inputs":[', b"1e999,", b"1]}")),
    "numbers that vanish": ("infer", JSON, filled(b'{"inputs":[', b"1e-9999,", b"1]}")),
    "a name of 16 MB": ("infer", JSON, b'{"inputs":[{"name":"' + filled(b"", b"\\u001b")[:-30] + b'"}]}'),
    "an id of 16 MB": ("infer", JSON, input_of()[:-1] + b',"id":"' + filled(b"", b"x")[:-200] + b'"}'),
    "the same key a million times": ("infer", JSON, filled(b"{", b'"inputs":1,', b'"a":1}')),
    "a million keys": ("infer", JSON, b"{" + b",".join(b'"%d":1' % n for n in range(1_200_000)) + b"}"),
    "keys of 16 MB": ("predict", JSON, b'{"' + filled(b"", b"k")[:-10] + b'":1}'),
    "surrogates": ("infer", JSON, b'{"id":"' + filled(b"", b"\\ud800")[:-10] + b'"}'),
    "a million outputs": (
        "infer",
        JSON,
        input_of()[:-1] + b',"outputs":[' + b'{"name":"label"},' * 900_000 + b'{"name":"label"}]}',
    ),
    "white space": ("infer", JSON, filled(b"", b" ")),
    "rows without number": ("infer", RAW, bytes(MOST)),
    "rows of NaN": ("infer", RAW, struct.pack("<f", float("nan")) * 2048),
    "an image of zeros": ("image", PNG, bytes(MOST)),
    "a JPEG of nothing but starts of scans": ("image", JPEG, filled(b"\xff\xd8", b"\xff\xda\x00\x08")),
    "a WebP that says it is 4 GB": ("image", WEBP, b"RIFF\xff\xff\xff\xffWEBPVP8X" + bytes(900)),
}
PATHS = {"infer": "/v2/models/points/infer", "predict": "/predict/points", "image": "/predict/digits"}


class Others:
    """A client that asks for something ordinary all the while; the longest that it waited."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.longest = 0.0
        self.statuses: set[int] = set()
        self._asked = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self._over.is_set():
                began = time.monotonic()
                self.statuses.add(client.post(PATHS["infer"], json=POINT).status_code)
                self.longest = max(self.longest, time.monotonic() - began)
                self._asked.set()

    def __enter__(self) -> Others:
        self._thread.start()
        assert self._asked.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)


@pytest.fixture(scope="module")
def attacked(repository: Path) -> Iterator[Running]:
    with run_service(Settings(repository=repository, models=("digits", "points"), device="cpu")) as running:
        yield running


@pytest.mark.parametrize("name", BODIES)
def test_a_bomb_is_refused_while_others_are_answered(attacked: Running, name: str) -> None:
    path, headers, body = BODIES[name]
    assert len(body) <= MOST
    # Empty objects take the most: 64 bytes and a pointer for three. Bodies are read one at a time.
    with Others(attacked.url) as others, grows_at_most(33 * MOST / 2**20):
        began = time.monotonic()
        response = attacked.client.post(PATHS[path], content=body, headers=headers)
        took = time.monotonic() - began
    if name == "an id of 16 MB":  # no bomb: it is the client's own, and comes back to it
        assert response.status_code == 200
    else:
        assert 400 <= response.status_code < 500, response.text[:200]
        sentence(response)
    assert took < 10
    assert others.longest < PATIENCE_S
    assert others.statuses == {200}


def big_image(kind: str) -> bytes:
    """16 million pixels in some kilobytes: within every limit."""
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 4000), (9, 9, 9)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_many_large_images_at_once_take_the_memory_of_two(attacked: Running, kind: str) -> None:
    """What fits the limits is decoded, two at a time, and not on the loop that answers the others."""
    content = big_image(kind)
    assert len(content) < 300_000
    statuses: list[int] = []

    def send() -> None:
        statuses.append(httpx.post(attacked.url + PATHS["image"], content=content, timeout=60).status_code)

    # 48 MB of RGB, and what is turned upright and made grey of it, for each of two decoders.
    threads = [threading.Thread(target=send) for _ in range(6)]
    with grows_at_most(2 * 220), Others(attacked.url) as others:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert statuses == [200] * 6
    assert others.statuses == {200}
    assert others.longest < PATIENCE_S


def test_an_image_is_never_sent_back_as_what_it_also_is(attacked: Running) -> None:
    """A page in a picture: the answer is JSON, whatever came, and a browser may not guess otherwise."""
    buffer = io.BytesIO()
    Image.new("L", (28, 28), 9).save(buffer, "PNG")
    for more in (b"<script>alert(1)</script>", b"PK\x03\x04", b"%PDF-1.7"):
        for content, status in ((buffer.getvalue() + more, 200), (more + buffer.getvalue(), 415)):
            response = attacked.client.post(PATHS["image"], content=content, headers=PNG)
            assert response.status_code == status
            assert response.headers["content-type"] == "application/json"


@contextmanager
def watched(path: Path) -> Iterator[set[str]]:
    """What lies below a folder at any moment in here."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.update(str(each.relative_to(path)) for each in path.rglob("*"))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


TRAVERSALS = [
    "..", ".", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%2e%2e%2f%2e%2e", "..%5c..", "....//", "%252e%252e%252f",
    "points/..", "points%2f..%2f..", "%00", "points%00", "/etc", "%2fetc", "C:", "con", "~", "-rf", "*",
    "points/1/../../..", "\u2025", "%c0%ae%c0%ae", ".publish-x",
]  # fmt: skip


@pytest.mark.parametrize("name", TRAVERSALS)
@pytest.mark.parametrize(
    "way", ["/v2/models/{}/infer", "/predict/{}", "/v2/repository/models/{}/load", "/v2/models/{}"]
)
def test_no_name_of_a_model_leads_out_of_the_repository(attacked: Running, way: str, name: str) -> None:
    host, _, port = attacked.address.partition(":")
    method = "GET" if way.endswith("models/{}") else "POST"
    target = way.format(name).encode("utf-8").decode("latin-1")
    # Written by hand: httpx would make the path a proper one.
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n"
        raw.sendall(head.encode("latin-1") + b"{}")
        answer = b""
        while part := raw.recv(1 << 16):
            answer += part
    status = int(answer.split()[1])
    assert status in (400, 404, 405), answer
    assert b"root:" not in answer
    assert b"repository0" not in answer  # the folder's name
    assert answers(attacked)


def test_models_that_are_asked_for_make_no_files(repository: Path, attacked: Running) -> None:
    before = {str(each.relative_to(repository)) for each in repository.rglob("*")}
    with watched(repository) as seen:
        for name in ("new", "..%2fnew", "new%2f1"):
            attacked.client.post(f"/v2/repository/models/{name}/load")
            attacked.client.post(f"/v2/repository/models/{name}/unload")
    assert seen <= before


def test_a_compressed_body_is_not_unpacked(attacked: Running) -> None:
    bomb = zlib.compress(bytes(200_000_000), 9)
    for coding in ("gzip", "deflate", "br", "zstd", "identity, gzip", "x-gzip"):
        with grows_at_most(30):
            response = attacked.client.post(PATHS["infer"], content=bomb, headers={**JSON, "content-encoding": coding})
        assert response.status_code == 415
    host, _, port = attacked.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        head = f"POST {PATHS['infer']} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
        raw.sendall(head.encode() + b"%x\r\n" % len(bomb[:1000]) + bomb[:1000] + b"\r\n0\r\n\r\n")
        assert raw.recv(4096).startswith((b"HTTP/1.1 400", b"HTTP/1.1 415"))


@pytest.mark.skipif(os.name != "posix", reason="no links")
def test_a_model_that_becomes_a_link_while_the_service_runs_is_not_loaded(tmp_path: Path, repository: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    shutil.copytree(repository, root)
    shutil.copytree(repository / "points", outside)
    with run_service(Settings(repository=root, models=("digits",), device="cpu")) as running:
        shutil.rmtree(root / "points")
        (root / "points").symlink_to(outside)
        refused = running.client.post("/v2/repository/models/points/load")
        assert refused.status_code == 400
        assert "symbolic link" in sentence(refused)
        assert running.client.get("/v2/models/points").status_code == 404
