"""Traces out of a container: the service's own on Ray, and those of Serve, at a collector on the host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from compose_project import Project, docker
from otlp_receiver import Span, receiver

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
OVERRIDE = """
services:
  dlenv:
    environment:
      OTEL_BSP_SCHEDULE_DELAY: "100"
      RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH: dlenv_service.tracing:serve_processors
      RAY_SERVE_TRACING_SAMPLING_RATIO: "1"
"""


@pytest.fixture
def gateway(image: str) -> str:
    """What `host.docker.internal` stands for."""
    form = "{{(index .IPAM.Config 0).Gateway}}"
    return docker("network", "inspect", "bridge", "--format", form).stdout.strip()


def test_spans_reach_a_collector_on_the_host(new_project: Callable[..., Project], tmp_path: Path, gateway: str) -> None:
    override = tmp_path / "override.yaml"
    override.write_text(OVERRIDE)
    with receiver(gateway) as (endpoint, collector):
        port = endpoint.rpartition(":")[2]
        it = new_project("compose.yaml", str(override), DLENV_OTLP_ENDPOINT=f"http://host.docker.internal:{port}")
        it.up()
        sent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        with httpx.Client(base_url=f"http://127.0.0.1:{it.variables['DLENV_PORT']}", trust_env=False) as client:
            answer = client.post("/predict/spiral-mlp", json={"inputs": [[0.1, 0.2]]}, headers=sent)
            assert answer.status_code == 200, answer.text
            assert client.get("/v2/models/spiral-mlp", headers=sent).status_code == 200
        spans = collector.wait(lambda spans: {"batch spiral-mlp", "GET /v2/models/{model}"} <= names(spans))
        it.compose("stop")
    (request,) = (span for span in collector.spans if span.name == "POST /predict/{model}")
    assert (request.trace, request.parent) == (TRACE, PARENT)
    parts = {span.name for span in collector.spans if span.parent == request.id}
    assert parts == {"parse", "queue", "compute"}
    assert [id_ for _, id_ in request.links] == [span.id for span in spans if span.name == "batch spiral-mlp"]
    # Inference does not go through Serve, everything else does; what was not sent yet is, when it stops.
    of_serve = [span for span in collector.spans if span.name.startswith("replica_handle_request")]
    assert TRACE in {span.trace for span in of_serve}
    it.compose("down", "--volumes", "--timeout", 1)


def names(spans: list[Span]) -> set[str]:
    return {span.name for span in spans}
