"""`dlenv bench` against a real `dlenv serve`, and against services that are not what they should be."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from bench_server import OK, Answering, Asked, answer, serving

from dlenv.bench.local import serving as dlenv_serving

Run = Callable[..., Any]
pytestmark = pytest.mark.slow  # they measure, which takes its time

QUICK = ("--duration", "0.4", "--connections", "4", "--rows", "1", "--tool", "own")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def dlenv() -> Iterator[str]:
    """The URL of `dlenv serve --runtime local` with the models that ship."""
    with dlenv_serving(None) as url:
        yield url


def service(label: Callable[[Asked], int], *, key: str | None = None, outputs: str = "INT64") -> Answering:
    """A small inference service: two models, of which the second is ready, and `label` for each request."""
    tensor = {"name": "x", "datatype": "UINT8", "shape": [-1, 4]}
    ready = {"name": "second", "version": "1", "state": "READY"}
    index = [{"name": "first", "version": "1", "state": "UNAVAILABLE"}, ready, {**ready, "version": "2"}]
    output = {"name": "y", "datatype": outputs, "shape": [-1]}

    def answering(asked: Asked) -> bytes:
        if key is not None and asked.headers.get("authorization") != f"Bearer {key}":
            return answer(b'{"error": "no key"}', "401 Unauthorized")
        path = asked.line.split()[1]
        if path == "/v2/repository/index":
            return answer(json.dumps(index).encode())
        if path == "/v2/models/second":
            return answer(json.dumps({"name": "second", "inputs": [tensor], "outputs": [output]}).encode())
        if path == "/v2/models/second/infer":
            assert asked.headers["inference-header-content-length"] == "0"
            values = struct.pack("<q", label(asked))
            described = {**output, "shape": [1], "parameters": {"binary_data_size": len(values)}}
            head = json.dumps({"model_name": "second", "outputs": [described]}).encode()
            time.sleep(0.002)
            return answer(head + values, "200 OK", f"Inference-Header-Content-Length: {len(head)}")
        return answer(b'{"error": "unknown"}', "404 Not Found")

    return answering


def base(url: str) -> str:
    return url.removesuffix("/ask")


def error(result: Any) -> str:
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.stderr
    assert result.stdout == ""
    return str(lines[0])


# A real service


def test_a_closed_loop_as_json(run: Run, dlenv: str) -> None:
    words = ("--connections", "1,8", "--rows", "1,16", "--duration", "0.5", "--model", "mnist-mlp", "--tool", "own")
    result = run("bench", dlenv, *words, "--json")
    document = json.loads(result.stdout)
    assert document["schema"] == 1
    assert (document["url"], document["model"]) == (dlenv, "mnist-mlp")
    found = document["measurements"]
    assert [(each["rows"], each["connections"]) for each in found] == [(1, 1), (1, 8), (16, 1), (16, 8)]
    for each in found:
        assert (each["mode"], each["wrong"], each["failed"], each["rejected"]) == ("closed", 0, {}, 0)
        assert each["answered"] > 10
        assert each["rows_per_second"] == each["rate"] * each["rows"]
        assert sum(count for _, _, count in each["histogram"]) == each["answered"]
        assert each["latency"]["p50"] <= each["latency"]["p99"] <= each["latency"]["max"]
    # On a busy machine the generator may have waited for a processor: then it says so.
    assert document["valid"] == all(not each["problems"] for each in found)
    assert result.code == int(not document["valid"])


def test_a_table_of_the_first_model_that_is_ready(run: Run, dlenv: str) -> None:
    result = run("bench", f"{dlenv}/", "--connections", "2", "--rows", "1", "--duration", "1")
    header, line = (row.split("\t") for row in result.stdout.splitlines())
    cells = dict(zip(header, line, strict=True))
    assert (cells["rows"], cells["load"], cells["rejected"]) == ("1", "2 connections", "0")
    assert float(cells["requests/s"]) > 10
    assert 0 < float(cells["p50 ms"]) <= float(cells["p99 ms"]) <= float(cells["max ms"])
    assert cells["state"] == ("ok" if result.code == 0 else "not valid")
    assert "Measuring mnist-lenet: 1 row a request, 2 connections..." in result.stderr


def test_an_open_loop_with_a_picture(run: Run, dlenv: str, tmp_path: Path) -> None:
    picture = tmp_path / "bench.png"
    words = ("--rate", "50,100.5", "--rows", "1,2", "--duration", "0.5", "--model", "spiral-mlp")
    result = run("bench", dlenv, *words, "--plot", picture)
    assert [line.split("\t")[:2] for line in result.stdout.splitlines()[1:]] == [
        ["1", "50 requests/s"],
        ["1", "100.5 requests/s"],
        ["2", "50 requests/s"],
        ["2", "100.5 requests/s"],
    ]
    assert picture.read_bytes().startswith(PNG)
    assert [path.name for path in tmp_path.iterdir()] == ["bench.png"]
    assert f"Wrote {picture}." in result.stderr


def test_an_unknown_model(run: Run, dlenv: str) -> None:
    result = run("bench", dlenv, "--model", "resnet 18/x")
    assert result.code == 1
    text = error(result)
    assert "'resnet 18/x'" in text
    assert "mnist-lenet" in text
    assert "spiral-mlp" in text


def test_more_rows_than_the_service_takes(run: Run, dlenv: str) -> None:
    result = run("bench", dlenv, *QUICK[:-4], "--rows", "2000")
    assert result.code == 1
    assert "status 413" in error(result)


@pytest.mark.slow
def test_a_service_of_its_own(run: Run) -> None:
    result = run("bench", "--local", "--model", "spiral-linear", *QUICK, "--json")
    document = json.loads(result.stdout)
    assert document["model"] == "spiral-linear"
    assert document["measurements"][0]["answered"] > 10
    port = int(document["url"].rpartition(":")[2])
    assert not any(each.laddr.port == port for each in psutil.net_connections("tcp") if each.status == "LISTEN")


@pytest.mark.slow
def test_its_own_service_does_not_start(run: Run) -> None:
    result = run("bench", "--local", "--model", "nothing")
    assert result.code == 1
    assert "'nothing'" in error(result)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_leaves_nothing_behind(number: signal.Signals, code: int) -> None:
    words = ["bench", "--local", "--model", "spiral-linear", "--duration", "60", "--rows", "1", "--tool", "own"]
    with subprocess.Popen([sys.executable, "-m", "dlenv", *words], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            while "Measuring" not in (line := process.stderr.readline()):
                assert line, "it ended before it measured"
            children = []
            until = time.monotonic() + 20
            while len(children) < 2 and time.monotonic() < until:
                children = psutil.Process(process.pid).children(recursive=True)
                time.sleep(0.05)
            assert len(children) >= 2  # the service, and a process of the generator
            process.send_signal(number)
            assert process.wait(20) == code
            rest = process.stderr.read()
        finally:
            process.kill()
    assert "Traceback" not in rest
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


# Other services


def test_wrong_answers(run: Run) -> None:
    """What is asked beforehand, 16 requests, gets other labels than what is asked later."""
    asked = 0

    def label(_: Asked) -> int:
        nonlocal asked
        asked += 1
        return 7 if asked <= 16 else 8

    with serving(service(label)) as server:
        result = run("bench", base(server.url), *QUICK, "--json")
    assert result.code == 1
    document = json.loads(result.stdout)
    assert document["valid"] is False
    (found,) = document["measurements"]
    assert found["answered"] == 0
    assert found["wrong"] > 10
    assert "answers were wrong" in result.stderr


def test_the_first_model_that_is_ready_with_a_key(run: Run, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("open-sesame\n")
    with serving(service(lambda asked: asked.body[0], key="open-sesame")) as server:
        result = run("bench", base(server.url), *QUICK, "--json", "--api-key-file", key)
        refused = run("bench", base(server.url), *QUICK)
    document = json.loads(result.stdout)
    assert document["model"] == "second"
    assert document["measurements"][0]["answered"] > 10
    assert document["measurements"][0]["failed"] == {}
    assert "open-sesame" not in result.stdout + result.stderr
    assert refused.code == 1
    assert "status 401: no key" in error(refused)


def test_a_model_without_labels_is_counted_only(run: Run) -> None:
    with serving(service(lambda asked: asked.number, outputs="FP64")) as server:
        result = run("bench", base(server.url), *QUICK, "--json")
    assert json.loads(result.stdout)["measurements"][0]["wrong"] == 0
    assert "answers are counted, not checked" in result.stderr


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([{"name": "a", "datatype": "FP32", "shape": [-1, 2]}] * 2, "takes 2 inputs"),
        ([{"name": "a", "datatype": "FP32", "shape": [1, 2]}], "takes [1, 2]"),
        ([{"name": "a", "datatype": "BYTES", "shape": [-1]}], "takes BYTES"),
        ([{"name": "a", "datatype": "FP32"}], "is not an inference service"),
    ],
)
def test_a_model_that_cannot_be_asked(run: Run, inputs: list[dict[str, object]], words: str) -> None:
    metadata = answer(json.dumps({"name": "m", "inputs": inputs, "outputs": []}).encode())
    with serving(lambda asked: metadata) as server:
        result = run("bench", base(server.url), "--model", "m", "--rows", "3", "--tool", "own")
    assert result.code == 1
    assert words in error(result)


def test_a_saturated_generator_is_not_valid(run: Run) -> None:
    with serving(service(lambda asked: 1)) as server:
        result = run("bench", base(server.url), "--rate", "1e6", "--rows", "1", "--duration", "0.02", "--json")
    document = json.loads(result.stdout)
    assert result.code == 1
    assert document["valid"] is False
    assert "load generator" in document["measurements"][0]["saturated"]
    assert "Not valid: 1 row, 1e+06 requests/s: the load generator" in result.stderr


@pytest.mark.parametrize("reply", [OK, answer(b"[1]"), answer(b"<html>", "404 Not Found"), b"SSH-2.0-x\r\n\r\n"])
def test_no_inference_service(run: Run, reply: bytes) -> None:
    with serving(lambda asked: reply) as server:
        result = run("bench", base(server.url), *QUICK)
    assert result.code == 1
    assert base(server.url) in error(result)


def test_nothing_listens(run: Run) -> None:
    with serving(lambda asked: OK) as server:
        pass
    result = run("bench", base(server.url), *QUICK)
    assert result.code == 1
    assert "can't be reached" in error(result)


def test_a_picture_without_matplotlib(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("bench", "http://127.0.0.1:1", "--plot", "a.png")
    assert result.code == 1
    assert "this needs matplotlib, which is not installed here; activate an environment" in error(result)


# Misuse


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "--local"),
        (["http://127.0.0.1:1", "--local"], "--local"),
        (["ftp://127.0.0.1"], "'ftp://127.0.0.1'"),
        (["127.0.0.1:8000"], "http://127.0.0.1:8000"),
        (["--local", "--connections", "0"], "--connections 0"),
        (["--local", "--connections", "1,,2"], "--connections 1,,2"),
        (["--local", "--connections", "1.5"], "--connections 1.5"),
        (["--local", "--connections", "100000"], "10000"),
        (["--local", "--rows", "-1"], "--rows -1"),
        (["--local", "--rate", "nan"], "--rate nan"),
        (["--local", "--rate", "inf"], "--rate inf"),
        (["--local", "--rate", ""], "--rate"),
        (["--local", "--duration", "0"], "--duration 0"),
        (["--local", "--duration", "inf"], "--duration inf"),
        (["--local", "--processes", "0"], "--processes 0"),
        (["--local", "--processes", "3", "--connections", "1,2"], "--processes 3"),
        (["--local", "--rate", "5", "--tool", "wrk"], "--tool wrk"),
        (["--local", "--plot", "a.pdf"], "--plot a.pdf"),
        (["--local", "--plot", "no/a.png"], "--plot no"),
        (["http://127.0.0.1:1", "--api-key-file", "no-file"], "--api-key-file no-file"),
        (["http://127.0.0.1:1", "--api-key-file", os.devnull], "holds no key"),
    ],
)
def test_misuse(run: Run, words: list[str], text: str) -> None:
    result = run("bench", *words)
    assert result.code == 2
    assert text in error(result)
