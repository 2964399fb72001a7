"""``GET /metrics``: the counts of :mod:`dlenv_service.statistics` in Prometheus' text format.

Nothing is counted twice: the hot path fills the statistics, and this collector reads them when somebody scrapes.
GPU figures come from NVML, where there is a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING

import pynvml
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from dlenv import __version__

if TYPE_CHECKING:
    from dlenv_service.asgi import Service

__all__ = ["METRICS", "Metrics"]

# Name -> help text. The documentation lists these, and a test holds the two together.
METRICS = {
    "dlenv_build": "Version of dlenv.",
    "dlenv_uptime_seconds": "Seconds since the service started.",
    "dlenv_ready": "1 when the service answers inference requests.",
    "dlenv_in_flight_requests": "HTTP requests being answered.",
    "dlenv_http_errors": "HTTP requests answered with an error, by status.",
    "dlenv_model": "Loaded model versions: architecture and device.",
    "dlenv_model_memory_bytes": "Memory that a model's weights and prepared batches take.",
    "dlenv_requests": "Inference requests, by model, version and HTTP status.",
    "dlenv_request_duration_seconds": "Time from a request's arrival to its answer.",
    "dlenv_queue_duration_seconds": "Time that a request waited for the device.",
    "dlenv_batch_rows": "Rows in a batch.",
    "dlenv_rows": "Rows answered.",
    "dlenv_queue_rows": "Rows that wait for the device.",
    "dlenv_in_flight_rows": "Rows on the device.",
    "dlenv_rejected": "Requests rejected because the queue was full (429) or the deadline passed (504).",
    "dlenv_failed_batches": "Batches that the model failed on.",
    "dlenv_gpu_memory_used_bytes": "GPU memory in use, by all processes.",
    "dlenv_gpu_memory_total_bytes": "GPU memory.",
    "dlenv_gpu_utilization_ratio": "Share of the last sample period in which a kernel ran on the GPU.",
}


class Metrics(Collector):
    """Reads a service's counts into metric families."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._started = time.time()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def render(self, accept: str) -> tuple[str, bytes]:
        """Content type and body for a scrape that sent this ``Accept`` header."""
        encoder, content_type = choose_encoder(accept)
        return content_type, encoder(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Everything, read now."""
        service = self._service
        label = {"replica": service.replica} if service.replica else {}
        names, values = list(label), list(label.values())

        info = InfoMetricFamily("dlenv_build", METRICS["dlenv_build"], labels=names)
        info.add_metric(values, {"version": __version__})
        yield info
        gauges = {
            "dlenv_uptime_seconds": time.time() - self._started,
            "dlenv_ready": float(service.ready),
            "dlenv_in_flight_requests": float(service.all_in_flight),
        }
        for name, value in gauges.items():
            gauge = GaugeMetricFamily(name, METRICS[name], labels=names)
            gauge.add_metric(values, value)
            yield gauge
        errors = CounterMetricFamily("dlenv_http_errors", METRICS["dlenv_http_errors"], labels=[*names, "status"])
        for status, count in sorted(service.errors.items()):
            errors.add_metric([*values, str(status)], count)
        yield errors
        yield from self._models(names, values)
        yield from _gpus(names, values)

    def _models(self, names: list[str], values: list[str]) -> Iterable[Metric]:
        per_model = [*names, "model", "version"]

        def counter(name: str, *more: str) -> CounterMetricFamily:
            return CounterMetricFamily(name, METRICS[name], labels=[*per_model, *more])

        def gauge(name: str, *more: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(name, METRICS[name], labels=[*per_model, *more])

        def histogram(name: str) -> HistogramMetricFamily:
            return HistogramMetricFamily(name, METRICS[name], labels=per_model)

        info = InfoMetricFamily("dlenv_model", METRICS["dlenv_model"], labels=per_model)
        requests = counter("dlenv_requests", "status")
        rejected = counter("dlenv_rejected", "status")
        rows, failed = counter("dlenv_rows"), counter("dlenv_failed_batches")
        memory, queued, running = (
            gauge("dlenv_model_memory_bytes"),
            gauge("dlenv_queue_rows"),
            gauge("dlenv_in_flight_rows"),
        )
        latency, queue_time, batch_size = (
            histogram("dlenv_request_duration_seconds"),
            histogram("dlenv_queue_duration_seconds"),
            histogram("dlenv_batch_rows"),
        )
        fronts = self._service.fronts
        for served in self._service.host.loaded():
            labels = [*values, served.name, str(served.version)]
            counts = served.statistics
            info.add_metric(
                labels,
                {"architecture": served.manifest.architecture.name, "device": str(self._service.host.device)},
            )
            for status, count in sorted(counts.requests.items()):
                requests.add_metric([*labels, str(status)], count)
            for status in (429, 504):
                rejected.add_metric([*labels, str(status)], counts.requests.get(status, 0))
            rows.add_metric(labels, counts.rows)
            failed.add_metric(labels, counts.failed_batches)
            memory.add_metric(labels, served.memory_bytes)
            queued.add_metric(labels, served.queued_rows + (fronts.queued_rows(served) if fronts else 0))
            running.add_metric(labels, served.lane.running)
            for family, values_of in (
                (latency, counts.latency),
                (queue_time, counts.queue_time),
                (batch_size, counts.batch_size),
            ):
                family.add_metric(labels, values_of.cumulative(), values_of.sum)
        yield from (info, requests, rejected, rows, failed, memory, queued, running, latency, queue_time, batch_size)


@cache
def _nvml() -> bool:
    """Whether NVML answers; asked once."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True


def _gpu_count() -> int:
    try:
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:  # a driver that was replaced while we run must not take the other metrics with it
        return 0


def _gpus(names: list[str], values: list[str]) -> Iterable[Metric]:
    if not _nvml():
        return
    labels = [*names, "gpu", "name"]
    used, total, busy = (
        GaugeMetricFamily(name, METRICS[name], labels=labels)
        for name in ("dlenv_gpu_memory_used_bytes", "dlenv_gpu_memory_total_bytes", "dlenv_gpu_utilization_ratio")
    )
    for index in range(_gpu_count()):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            key = [*values, str(index), str(pynvml.nvmlDeviceGetName(handle))]
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            used.add_metric(key, memory.used)
            total.add_metric(key, memory.total)
            busy.add_metric(key, pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
        except pynvml.NVMLError:
            continue  # not every GPU tells everything (MIG, vGPU); a scrape gives what there is
    yield from (used, total, busy)
