"""Traces, as a collector receives them that speaks the real protocol."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from otlp_receiver import Receiver, Span, receiver
from serving import Running, publish, run_service
from test_local import BODY, INFER, Process, free_port

from dlenv.errors import UsageError
from dlenv_service.batcher import Item
from dlenv_service.config import Settings, load_settings
from dlenv_service.fronts.remote import RemoteHost
from dlenv_service.fronts.wire import SLOTS, Done, Memory, Model, Models, slot_bytes
from dlenv_service.tensors import Signature
from dlenv_service.tracing import Ran

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
FORM = re.compile(r"00-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-[0-9a-f]{2}")
SERVER = 2  # opentelemetry.proto.trace.v1.Span.SpanKind
HTTP = "POST /v2/models/{model}/infer"
ROWS = {"inputs": [{"name": "input", "shape": [6, 2], "datatype": "FP32", "data": [0.5] * 12}]}

CODE = """
import sys
from dlenv.errors import MissingExtra
from dlenv_service import tracing
from dlenv_service.config import Settings
from dlenv_service.fronts import front
tracing.start(Settings())
print([name for name in sys.modules if name.startswith("opentelemetry")])
try:
    tracing.start(Settings(otlp_endpoint="http://127.0.0.1:4318"))
except MissingExtra as error:
    print(error)
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    publish(root, "points", input_shape=[2], classes=2)
    return root


@pytest.fixture(scope="module")
def traced(repository: Path) -> Iterator[tuple[Running, Receiver]]:
    with pytest.MonkeyPatch.context() as patch, receiver() as (endpoint, collector):
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")  # ms; 5,000 by default
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        settings = Settings(repository=repository, models=("points",), max_batch=4, otlp_endpoint=endpoint)
        with run_service(settings) as running:
            yield running, collector


def of(spans: list[Span], answer: httpx.Response) -> tuple[Span, list[Span]]:
    """The span of an answer, and those below it."""
    found = FORM.fullmatch(answer.headers["traceparent"])
    assert found is not None
    (span,) = (span for span in spans if span.id == found["span"])
    assert span.trace == found["trace"]
    return span, [each for each in spans if each.parent == span.id]


def ended(answer: httpx.Response) -> Receiver:
    return lambda spans: any(span.id == answer.headers["traceparent"].split("-")[2] for span in spans)  # type: ignore


def test_a_request_is_a_span_with_its_parts_and_links_to_its_batches(traced: tuple[Running, Receiver]) -> None:
    running, collector = traced
    before = time.time_ns()
    answer = running.client.post(INFER, json=ROWS, headers={**SENT, "X-Request-Id": "mine", "tracestate": "a=1"})
    after = time.time_ns()
    assert answer.status_code == 200
    spans = collector.wait(ended(answer))
    span, parts = of(spans, answer)
    assert (span.name, span.kind, span.trace, span.parent, span.failed) == (HTTP, SERVER, TRACE, PARENT, False)
    assert span.attributes == {
        "http.request.method": "POST", "http.route": "/v2/models/{model}/infer", "url.path": INFER,
        "http.response.status_code": 200, "dlenv.request_id": "mine", "dlenv.model": "points", "dlenv.version": 1,
        "dlenv.rows": 6,
    }  # fmt: skip
    assert span.resource["service.name"] == "dlenv"
    assert span.resource["deployment.environment"] == "test"
    assert collector.paths == {"/v1/traces"}
    parts.sort(key=lambda part: part.began)
    assert [part.name for part in parts] == ["parse", "queue", "compute"]
    times = [span.began, *(at for part in parts for at in (part.began, part.ended)), span.ended]
    assert [before, *times, after] == sorted([before, *times, after])
    batches = {each.id: each for each in spans if each.name == "batch points"}
    linked = [batches[each] for _, each in span.links]  # six rows, and four in a batch
    assert [batch.attributes["dlenv.rows"] for batch in linked] == [4, 2]
    assert {batch.trace for batch in linked}.isdisjoint({TRACE})
    assert all(batch.attributes["dlenv.requests"] == 1 and batch.attributes["dlenv.infer_us"] >= 0 for batch in linked)
    assert parts[2].ended == pytest.approx(linked[1].ended, abs=50_000)  # the clocks are compared anew for each


def test_the_quick_way_is_traced_too(traced: tuple[Running, Receiver]) -> None:
    running, collector = traced
    answers = [running.client.post(INFER, json=BODY) for _ in range(3)]  # from the second on
    assert len({answer.headers["traceparent"] for answer in answers}) == 3
    for answer in answers:
        span, parts = of(collector.wait(ended(answer)), answer)
        assert span.name == HTTP
        assert span.parent == ""
        assert span.attributes["dlenv.request_id"] == answer.headers["x-request-id"]
        assert len(parts) == 3
        assert len(span.links) == 1


@pytest.mark.parametrize(
    ("method", "path", "status", "name"),
    [
        ("GET", "/v2/models/points", 200, "GET /v2/models/{model}"),
        ("POST", "/v2/models/none/infer", 404, HTTP),
        ("GET", "/nowhere", 404, "GET"),
    ],
)
def test_every_other_request_is_a_span(
    traced: tuple[Running, Receiver], method: str, path: str, status: int, name: str
) -> None:
    running, collector = traced
    answer = running.client.request(method, path)
    span, parts = of(collector.wait(ended(answer)), answer)
    assert (span.name, span.attributes["http.response.status_code"], parts) == (name, status, [])


def test_what_machines_ask_all_the_time_is_no_span(traced: tuple[Running, Receiver]) -> None:
    running, _ = traced
    for path in ("/v2/health/live", "/v2/health/ready", "/metrics"):
        assert "traceparent" not in running.client.get(path).headers


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", "nonsense")],
        [("traceparent", f"00-{'0' * 32}-{PARENT}-01")],
        [*SENT.items(), *SENT.items()],
        [("traceparent", "00-\u00e9"), ("tracestate", "\u00e9")],
    ],
)
def test_a_context_that_is_none_is_ignored(traced: tuple[Running, Receiver], headers: list[tuple[str, str]]) -> None:
    running, collector = traced
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    answer = running.client.post(INFER, json=BODY, headers=raw)
    assert answer.status_code == 200
    span, _ = of(collector.wait(ended(answer)), answer)
    assert span.parent == ""


def test_a_client_that_does_not_sample_is_followed(traced: tuple[Running, Receiver]) -> None:
    running, collector = traced
    silent = running.client.post(INFER, json=BODY, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert silent.headers["traceparent"].startswith(f"00-{TRACE}-")
    assert silent.headers["traceparent"].endswith("-00")
    later = running.client.post(INFER, json=BODY)
    spans = collector.wait(ended(later))
    assert not ended(silent)(spans)


def test_a_batch_that_fails_is_an_error(traced: tuple[Running, Receiver]) -> None:
    running, collector = traced
    lane = running.service.host.find("points").lane
    whole, lane.runner = lane.runner, None  # type: ignore[assignment] # calling it raises
    try:
        answer = running.client.post(INFER, json=BODY)
    finally:
        lane.runner = whole
    assert answer.status_code == 500
    spans = collector.wait(ended(answer))
    span, _ = of(spans, answer)
    assert span.failed
    assert span.attributes["error.type"] == "500"
    (batch,) = (each for each in spans if each.id == span.links[0][1])
    assert batch.failed


def test_fronts_make_the_spans_of_their_requests(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as (endpoint, collector):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        process = Process(free_port(), "--repository", str(repository), "points", "--fronts", "1", "--max-batch", "4")
        try:
            process.wait_for("Serving")
            with httpx.Client(base_url=process.url, trust_env=False) as client:
                asked = [client.post(INFER, json=each, headers=SENT) for each in (ROWS, BODY)]
                asked.append(client.get("/v2/models/points", headers=SENT))
                assert "traceparent" not in client.get("/v2/health/ready").headers
        finally:
            process.popen.send_signal(signal.SIGTERM)
            assert process.popen.wait(30) == 0
        # Nothing is lost that was not sent yet when the service stopped.
        (many, _), (infer, parts), (other, _) = (of(collector.spans, answer) for answer in asked)
    assert [part.name for part in sorted(parts, key=lambda part: part.began)] == ["parse", "queue", "compute"]
    assert {infer.parent, other.parent} == {PARENT}
    assert infer.resource["process.pid"] != other.resource["process.pid"]
    batches = {(span.trace, span.id): span for span in collector.spans if span.name == "batch points"}
    assert {span.resource["process.pid"] for span in batches.values()} == {other.resource["process.pid"]}
    assert [batches[each].attributes["dlenv.rows"] for each in many.links] == [4, 2]
    (own,) = (batches[each] for each in infer.links)
    assert own.attributes["dlenv.rows"] == 1
    compute = max(parts, key=lambda part: part.began)
    assert compute.ended == pytest.approx(own.ended, abs=50_000)  # the clocks are compared anew for each


def test_a_request_in_a_front_knows_its_own_batches_among_those_of_its_slot() -> None:
    signature = Signature("points", "input", "FP32", (2,), ("probabilities", "label"), 1024)
    memory = Memory.make(slot_bytes(1024))
    host = RemoteHost(Settings(), memory, lambda _: None)
    host.apply(Models(1, (Model(1, "points", 1, signature, 3),)))

    async def ask() -> list[Item]:
        loop = asyncio.get_running_loop()
        items = [host.find("points").submit(np.zeros((3, 2), np.float32), None, loop.create_future()) for _ in range(3)]
        await asyncio.sleep(0.01)  # all are in one slot by now
        ran = (Ran(0, 4, 7, b"t" * 16, b"a" * 8, 1), Ran(4, 9, 8, b"t" * 16, b"b" * 8, 1))
        host.done(Done(SLOTS - 1, 3, True, 5, 1000.0, False, ran))
        return items

    linked = [[each.span[:1] for each in item.ran] for item in asyncio.run(ask())]
    assert linked == [[b"a"], [b"a", b"b"], [b"b"]]


def test_without_a_collector_nothing_of_it_is_imported_or_sent(repository: Path, tmp_path: Path) -> None:
    with run_service(Settings(repository=repository, models=("points",))) as running:
        assert running.service.tracing is None
        assert "traceparent" not in running.client.post(INFER, json=BODY, headers=SENT).headers
        assert running.service.host.find("points").lane.on_batch is None
    # A folder before all others, whose package of that name has nothing in it.
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").touch()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    imported, error = done.stdout.splitlines()
    assert imported == "[]"
    assert error.startswith("traces for http://127.0.0.1:4318 need opentelemetry.")
    assert "pip install 'dlenv[otel]'" in error


def test_a_collector_that_is_not_there_harms_nobody(repository: Path) -> None:
    settings = Settings(repository=repository, models=("points",), otlp_endpoint=f"http://127.0.0.1:{free_port()}")
    with run_service(settings) as running:
        assert running.client.post(INFER, json=BODY).status_code == 200
        began = time.monotonic()
    assert time.monotonic() - began < 8  # it gets two seconds for what is left


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318"}, "http://a:4318"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318", "DLENV_OTLP_ENDPOINT": "http://b"}, "http://b"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/v1/traces"},
            "http://c/v1/traces",
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, None),
    ],
)
def test_the_standard_variables_name_the_collector(environ: dict[str, str], endpoint: str | None) -> None:
    assert load_settings(environ=environ).otlp_endpoint == endpoint


@pytest.mark.parametrize("value", ["127.0.0.1:4318", "ftp://a", "http://", "grpc://a:4317"])
def test_an_endpoint_that_is_no_url_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match=r"--otlp-endpoint .* give a URL such as http://127\.0\.0\.1:4318"):
        load_settings({"otlp_endpoint": value})
