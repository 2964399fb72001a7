"""What Prometheus reads: parsed by its own client, and compared with what was asked."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from serving import Running

from dlenv import __version__
from dlenv_service.metrics import METRICS, Metrics, _nvml
from dlenv_service.statistics import BATCH_BUCKETS, LATENCY_BUCKETS, Histogram, Statistics

Serve = Callable[..., AbstractContextManager[Running]]
POINT = {"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
GPU = {name for name in METRICS if name.startswith("dlenv_gpu_")}


def samples(running: Running) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(running.client.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


def value(found: dict[str, list[Sample]], name: str, **labels: str) -> float:
    matching = [each.value for each in found[name] if labels.items() <= each.labels.items()]
    assert len(matching) == 1, (name, labels, matching)
    return matching[0]


@pytest.fixture(scope="module")
def whole_batches() -> Iterator[None]:
    """Batches of as many rows as may be, also where other work makes fewer look faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dlenv_service.engine.NEARLY", 0.0)
        yield


@pytest.fixture(scope="module")
def asked(repository: object, whole_batches: None) -> Iterator[Running]:
    """A service that was asked: 5 good requests of 1, 1, 1, 4 and 70 rows, 2 bad ones, 1 to nobody."""
    from serving import run_service

    from dlenv_service.config import Settings

    with run_service(Settings(repository=repository, models=("points", "digits"), device="cpu", max_batch=64)) as it:  # type: ignore[arg-type]
        for count in (1, 1, 1, 4, 70):
            data = [0.5] * (2 * count)
            tensor = {"name": "input", "shape": [count, 2], "datatype": "FP32", "data": data}
            assert it.client.post("/v2/models/points/infer", json={"inputs": [tensor]}).status_code == 200
        assert it.client.post("/v2/models/points/infer", content=b"{").status_code == 400
        assert it.client.post("/predict/points", json={"inputs": [[1]]}).status_code == 422
        assert it.client.post("/v2/models/nobody/infer", json=POINT).status_code == 404
        yield it


def test_every_metric_is_there_and_nothing_undocumented(asked: Running) -> None:
    text = asked.client.get("/metrics").text
    described = dict(re.findall(r"^# HELP (dlenv_\w+) (.*)$", text, re.MULTILINE))
    described = {re.sub(r"_(total|info)$", "", name): text for name, text in described.items()}
    assert described == {name: text for name, text in METRICS.items() if _nvml() or name not in GPU}
    assert "process_resident_memory_bytes" in text


def test_counters_are_what_was_asked(asked: Running) -> None:
    found = samples(asked)
    points = {"model": "points", "version": "1"}
    assert value(found, "dlenv_requests_total", **points, status="200") == 5
    assert value(found, "dlenv_requests_total", **points, status="400") == 1
    assert value(found, "dlenv_requests_total", **points, status="422") == 1
    assert value(found, "dlenv_rows_total", **points) == 77
    assert value(found, "dlenv_rows_total", model="digits") == 0
    assert value(found, "dlenv_http_errors_total", status="404") == 1
    assert value(found, "dlenv_rejected_total", **points, status="429") == 0
    assert value(found, "dlenv_rejected_total", **points, status="504") == 0
    assert value(found, "dlenv_failed_batches_total", **points) == 0
    assert value(found, "dlenv_queue_rows", **points) == 0
    assert value(found, "dlenv_in_flight_rows", **points) == 0


def test_gauges_and_facts(asked: Running) -> None:
    found = samples(asked)
    assert value(found, "dlenv_ready") == 1
    assert value(found, "dlenv_in_flight_requests") == 1  # this very one
    assert 0 < value(found, "dlenv_uptime_seconds") < 600
    assert value(found, "dlenv_build_info", version=__version__) == 1
    assert value(found, "dlenv_model_info", model="points", architecture="linear", device="cpu") == 1
    assert value(found, "dlenv_model_memory_bytes", model="points") == 4 * (2 * 3 + 3 + 2 + 2)
    assert not any("replica" in each.labels for each in found["dlenv_ready"])


@pytest.mark.parametrize(
    ("name", "count", "bounds"),
    [
        ("dlenv_request_duration_seconds", 7, LATENCY_BUCKETS),
        ("dlenv_queue_duration_seconds", 5, LATENCY_BUCKETS),
        ("dlenv_batch_rows", 6, BATCH_BUCKETS),  # the 70 rows went as 64 and 6
    ],
)
def test_histograms_hold_together(asked: Running, name: str, count: int, bounds: tuple[float, ...]) -> None:
    found = samples(asked)
    buckets = [each for each in found[f"{name}_bucket"] if each.labels["model"] == "points"]
    assert [float(each.labels["le"]) for each in buckets] == [*bounds, float("inf")]
    counts = [each.value for each in buckets]
    assert counts == sorted(counts)
    assert counts[-1] == value(found, f"{name}_count", model="points") == count
    assert value(found, f"{name}_sum", model="points") > 0


def test_the_sum_of_batches_is_the_rows(asked: Running) -> None:
    found = samples(asked)
    assert value(found, "dlenv_batch_rows_sum", model="points") == 77
    by_size = {
        float(each.labels["le"]): each.value
        for each in found["dlenv_batch_rows_bucket"]
        if each.labels["model"] == "points"
    }
    assert [by_size[size] for size in (1, 2, 4, 8, 32, 64)] == [3, 3, 4, 5, 5, 6]


def test_openmetrics_is_answered_to_whoever_accepts_it(asked: Running) -> None:
    response = asked.client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in parse_openmetrics(response.text)}
    assert {"dlenv_requests", "dlenv_batch_rows", "dlenv_build"} <= names


@pytest.mark.parametrize("accept", ["", "*/*", "text/html,nonsense;q=x;;", ";" * 2000, "\xff"])
def test_any_accept_header_is_answered(asked: Running, accept: str) -> None:
    response = httpx.get(asked.url + "/metrics", headers={b"accept": accept.encode("latin-1")})
    assert response.status_code == 200
    assert "dlenv_ready" in response.text


def test_each_sample_says_its_replica_where_there_are_several(serve: Serve) -> None:
    with serve() as running:
        running.service.replica = 'r"1\n'
        found = samples(running)
        ours = [each for name, rows in found.items() if name.startswith("dlenv_") for each in rows]
        assert len(ours) > 50
        assert {each.labels["replica"] for each in ours} == {'r"1\n'}


def test_rejected_counts_full_queues_and_deadlines(serve: Serve) -> None:
    import threading
    import time

    with serve(max_queue_rows=2, max_rows=2, deadline_ms=1000) as running:
        release = threading.Event()
        running.service.host._worker.call(lambda: release.wait(20))  # type: ignore[union-attr]
        two = {"inputs": [{"name": "input", "shape": [2, 2], "datatype": "FP32", "data": [0] * 4}]}
        statuses: list[int] = []

        def ask() -> None:
            statuses.append(running.client.post("/v2/models/points/infer", json=two).status_code)

        waiting = threading.Thread(target=ask)
        waiting.start()
        while not running.service.queued_rows:
            time.sleep(0.005)
        ask()
        found = samples(running)
        assert value(found, "dlenv_queue_rows", model="points") == 2
        waiting.join()
        release.set()
        assert statuses == [429, 504]
        found = samples(running)
        assert value(found, "dlenv_rejected_total", model="points", status="429") == 1
        assert value(found, "dlenv_rejected_total", model="points", status="504") == 1


@pytest.mark.gpu
@pytest.mark.skipif(not _nvml(), reason="NVML finds no GPU here; on a machine with one: pytest -m gpu tests/service")
def test_gpu_figures(asked: Running) -> None:
    found = samples(asked)
    for used, total in zip(found["dlenv_gpu_memory_used_bytes"], found["dlenv_gpu_memory_total_bytes"], strict=True):
        assert 0 < used.value <= total.value
    assert all(0 <= each.value <= 1 for each in found["dlenv_gpu_utilization_ratio"])


# The counts themselves


def test_a_value_counts_in_the_first_bucket_that_reaches_it() -> None:
    histogram = Histogram((1.0, 2.0, 4.0))
    for number in (0.5, 1.0, 1.5, 2.0, 4.0, 4.1):
        histogram.observe(number)
    assert histogram.cumulative() == [("1.0", 2.0), ("2.0", 4.0), ("4.0", 5.0), ("+Inf", 6.0)]
    assert histogram.sum == 13.1


def test_when_to_try_again_follows_the_speed_of_the_device() -> None:
    statistics = Statistics()
    assert statistics.retry_after(1000) == 1  # nothing known yet
    statistics.batch(10, 0, 1_000_000_000, 0)  # 10 rows a second
    assert statistics.retry_after(0) == 1
    assert statistics.retry_after(50) in (5, 6)
    assert statistics.retry_after(10**6) == 30


def test_metrics_can_be_read_before_the_service_starts() -> None:
    from dlenv_service.asgi import Service
    from dlenv_service.config import Settings

    kind, body = Metrics(Service(Settings())).render("")
    assert kind.startswith("text/plain")
    assert b"dlenv_ready 0.0" in io.BytesIO(body).read()
