"""The metrics as documented, as a real Prometheus scrapes them, and as the alerts and the dashboard use them."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from dlenv_service.metrics import METRICS

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "docker" / "prometheus"
ROW = re.compile(r"^\| `(?P<name>\w+)` \| (?P<kind>\w+) \| (?P<labels>[^|]*)\| (?P<help>[^|]+) \|$", re.MULTILINE)
SUFFIXES = ("", "_bucket", "_sum", "_count")

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool, of the package prometheus, is absent"
)
needs_prometheus = pytest.mark.skipif(not shutil.which("prometheus"), reason="there is no prometheus here")


def documented() -> dict[str, re.Match[str]]:
    return {row["name"]: row for row in ROW.finditer((ROOT / "docs" / "metrics.md").read_text(encoding="utf-8"))}


@contextmanager
def program(*words: str) -> Iterator[None]:
    """A program that runs until the end of the block."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DLENV_")}
    with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def wait(url: str, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < until, url
        time.sleep(0.1)


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """``HOST:PORT`` of a service that has been asked things."""
    at = f"127.0.0.1:{free_port()}"
    with program(
        sys.executable,
        "-m",
        "dlenv",
        "serve",
        "--runtime",
        "local",
        "--port",
        at.partition(":")[2],
        "--engine",
        "eager",
    ):
        wait(f"http://{at}/v2/health/ready")
        with httpx.Client(base_url=f"http://{at}", trust_env=False) as client:
            for _ in range(5):
                assert client.post("/predict/spiral-mlp", json={"inputs": [[0.1, 0.2]]}).status_code == 200
            assert client.get("/nothing/here").status_code == 404
        yield at


def test_every_metric_is_documented_and_none_that_is_gone(service: str) -> None:
    rows = documented()
    text = httpx.get(f"http://{service}/metrics", trust_env=False).text
    families = {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in text_string_to_metric_families(text)
        if family.name.startswith("dlenv_")
    }
    hidden = {name for name in rows if name.startswith("dlenv_gpu_")} - families.keys()
    assert families.keys() | hidden == rows.keys()
    described = {re.sub(r"_(total|info)$", "", name): row["help"] for name, row in rows.items()}
    assert described == METRICS
    for name, family in families.items():
        assert rows[name]["kind"] == family.type, name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert set(re.findall(r"\w+", rows[name]["labels"])) == labels, name


def test_what_the_process_tells_is_documented(service: str) -> None:
    text = httpx.get(f"http://{service}/metrics", trust_env=False).text
    others = set(re.findall(r"^# TYPE ((?!dlenv_)\w+)", text, re.MULTILINE))
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert others == set(re.findall(r"`((?:process|python)_\w+)`", page))


@pytest.mark.parametrize("file", ["docker/prometheus/rules.yml", "docker/grafana/dashboards/dlenv.json"])
def test_alerts_and_dashboard_use_metrics_that_there_are(file: str) -> None:
    used = set(re.findall(r"dlenv_[a-z_]+", (ROOT / file).read_text(encoding="utf-8")))
    known = {f"{name}{suffix}" for name in documented() for suffix in SUFFIXES}
    assert len(used) >= 8
    assert used <= known


def test_the_dashboard_shows_what_it_must() -> None:
    dashboard = json.loads((ROOT / "docker" / "grafana" / "dashboards" / "dlenv.json").read_text(encoding="utf-8"))
    titles = {panel["title"] for panel in dashboard["panels"]}
    assert {"Requests", "Latency", "Rows that wait", "Batch size", "Rejections", "GPU", "GPU memory"} <= titles
    folder = ROOT / "docker" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text(encoding="utf-8"))["datasources"]
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}


@needs_promtool
@pytest.mark.parametrize(
    "words",
    [
        ("check", "rules", PROMETHEUS / "rules.yml"),
        ("test", "rules", ROOT / "tests" / "docker" / "alert_rules.yml"),
        ("check", "config", "--syntax-only", PROMETHEUS / "prometheus.yml"),
    ],
)
def test_promtool_finds_nothing(words: tuple[str | Path, ...]) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_prometheus_scrapes_evaluates_and_draws(service: str, tmp_path: Path) -> None:
    # The file that ships, for another target, with the key's file where it is without keys: empty.
    settings = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = settings["scrape_configs"]
    job["static_configs"] = [{"targets": [service]}]
    job["authorization"]["credentials_file"] = os.devnull
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(settings))
    shutil.copy(PROMETHEUS / "rules.yml", tmp_path)
    at = f"127.0.0.1:{free_port()}"
    with program(
        "prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address={at}",
    ), httpx.Client(base_url=f"http://{at}/api/v1", trust_env=False) as client:  # fmt: skip
        wait(f"http://{at}/-/ready")

        def ask(expression: str) -> list[dict[str, object]]:
            answer = client.get("/query", params={"query": expression})
            assert answer.status_code == 200, answer.text
            found: list[dict[str, object]] = answer.json()["data"]["result"]
            return found

        until = time.monotonic() + 30
        while not (up := ask('count_over_time(up{job="dlenv"}[1m]) >= 3')):  # as many as a rate needs
            assert time.monotonic() < until
            time.sleep(0.2)
        assert len(up) == 1
        (counted,) = ask('dlenv_requests_total{model="spiral-mlp", status="200"}')
        assert counted["value"][1] == "5"  # type: ignore[index]
        rules = client.get("/rules").json()["data"]["groups"][0]["rules"]
        assert len(rules) == len(yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"][0]["rules"])
        assert not [rule["name"] for rule in rules if rule["health"] == "err"]
        assert not ask('ALERTS{alertstate="firing"}')
        dashboard = json.loads((ROOT / "docker" / "grafana" / "dashboards" / "dlenv.json").read_text())
        variables = {"$__rate_interval": "1m", "$instance": ".*", "$model": ".*"}
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                expression = target["expr"]
                for name, value in variables.items():
                    expression = expression.replace(name, value)
                found = ask(expression)
                silent = "GPU" in panel["title"] or panel["title"] == "Firing alerts"
                assert found or silent, (panel["title"], expression)
