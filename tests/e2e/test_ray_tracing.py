"""`ray start --tracing-startup-hook=dlenv_service.tracing:ray_hook`: Ray's spans of calls reach the collector."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from otlp_receiver import receiver

from dlenv_service.arrangement import free_port
from dlenv_service.processes import end

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Ray's processes are found in /proc"),
]

ASKED, ANSWERED = "Counter.add ray.remote", "Counter.add ray.remote_worker"
BIN = Path(sys.executable).parent
PROGRAM = """
import sys, time
import ray

ray.init(sys.argv[1], logging_level="ERROR", log_to_driver=False)

@ray.remote
class Counter:
    def add(self, number):
        return number + 1

assert ray.get(Counter.remote().add.remote(1)) == 2
time.sleep(2)  # a worker sends what it has before Ray kills it
"""


def test_calls_between_actors_are_traced() -> None:
    directory = Path(f"/tmp/dlenv-hook-{os.getpid()}")  # short: Ray's sockets lie below it
    port = free_port()
    with receiver() as (endpoint, collector):
        environ = {
            **os.environ,
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": str(directory),
        }
        hook = "--tracing-startup-hook=dlenv_service.tracing:ray_hook"
        start = ["start", "--head", f"--port={port}", f"--temp-dir={directory}", "--include-dashboard=false", hook]
        try:
            subprocess.run([BIN / "ray", *start], env=environ, check=True, stdout=subprocess.DEVNULL, timeout=90)
            program = [sys.executable, "-c", PROGRAM, f"127.0.0.1:{port}"]
            subprocess.run(program, env=environ, check=True, timeout=90)
            spans = collector.wait(lambda spans: {ASKED, ANSWERED} <= {each.name for each in spans})
        finally:
            end(directory, patience_s=10)
            subprocess.run(["rm", "-rf", directory], check=True)
    (asked,) = (each for each in spans if each.name == ASKED)
    assert {each.trace for each in spans if each.name == ANSWERED} == {asked.trace}
    assert {each.resource["service.name"] for each in spans} == {"dlenv"}
