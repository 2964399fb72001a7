"""A Ray cluster of containers: replicas on several nodes, and what becomes of requests when nodes and models change."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from compose_project import Project, docker
from steady_load import PATH, load

from dlenv_service.arrangement import cluster_environment

SHIPPED = Path(__file__).parents[2] / "models" / "dlenv_models" / "trained"
MODEL = PATH.split("/")[3]

# Replicas are processes whose title Ray sets; the code that looks must not find itself.
REPLICAS = """
import pathlib
titles = [file.read_bytes() for file in pathlib.Path("/proc").glob("[0-9]*/cmdline")]
print(sum(title.startswith(b"ray::" + b"ServeReplica") for title in titles))
"""
KILL = """
import os, pathlib, signal
for process in pathlib.Path("/proc").glob("[0-9]*"):
    if int(process.name) not in (1, os.getpid()):
        os.kill(int(process.name), signal.SIGKILL)
"""
REACH = """
import concurrent.futures, socket
def reach(target):
    try:
        with socket.create_connection(target, 3):
            return target
    except OSError:
        return None
with concurrent.futures.ThreadPoolExecutor(64) as pool:
    print(*filter(None, pool.map(reach, TARGETS)), sep="\\n", end="")
"""
CLIENTS = 8
BACK_S = 120


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    root.chmod(0o755)
    return root


@pytest.fixture(scope="module")
def cluster(new_project: Callable[..., Project], repository: Path) -> Project:
    """A head and two workers, with two replicas."""
    it = new_project("docker/compose.cluster.yaml", DLENV_MODELS=str(repository), DLENV_REPLICAS="2")
    it.up("--scale", "worker=2")
    return it


def replicas(cluster: Project) -> list[int]:
    """How many replicas each running worker has."""
    running = [each for each in cluster.containers("worker") if each.facts["State"]["Running"]]
    return sorted(int(each.python(REPLICAS, check=False).stdout or 0) for each in running)


def wait_for_replicas(cluster: Project, count: int) -> None:
    until = time.monotonic() + BACK_S
    while sum(replicas(cluster)) != count:
        assert time.monotonic() < until, replicas(cluster)
        time.sleep(0.3)


def deploy(cluster: Project, *options: str) -> None:
    """Deploy again, as docs/docker.md says."""
    command = 'RAY_AUTH_TOKEN_PATH=/run/dlenv/ray_token exec dlenv serve --address auto "$@"'
    docker("exec", cluster.container("head").id, "sh", "-c", command, "sh", *options)


def test_replicas_are_on_both_workers_and_none_on_the_head(cluster: Project) -> None:
    assert replicas(cluster) == [1, 1]
    head = cluster.container("head")
    assert head.python(REPLICAS).stdout.strip() == "0"
    assert [port for port, at in head.facts["NetworkSettings"]["Ports"].items() if at] == ["8000/tcp"]
    for worker in cluster.containers("worker"):
        assert not any(worker.facts["NetworkSettings"]["Ports"].values())
    ready = httpx.get(f"http://127.0.0.1:{cluster.variables['DLENV_PORT']}/v2/health/ready", trust_env=False)
    assert ready.status_code == 200


def test_nobody_outside_of_its_network_reaches_a_node(cluster: Project, image: str) -> None:
    nodes = [cluster.container("head"), *cluster.containers("worker")]
    targets = [(node.address, each.port) for node in nodes for each in node.listening() if each.protocol == "tcp"]
    assert len(targets) > 20
    inside = nodes[0].python(f"TARGETS = {targets}\n{REACH}").stdout
    assert len(inside.splitlines()) > 5  # nodes talk to each other, so what is tried below can answer
    # Docker's default network stands for any machine outside.
    code = f"TARGETS = {targets}\n{REACH}"
    outside = docker("run", "--rm", "--entrypoint", "/opt/dlenv/bin/python", image, "-I", "-c", code)
    assert outside.stdout == ""


def test_every_node_has_the_variables_that_ray_needs(cluster: Project) -> None:
    for container in (cluster.container("head"), *cluster.containers("worker")):
        given = dict(each.split("=", 1) for each in container.facts["Config"]["Env"])
        assert cluster_environment().items() <= given.items()
        assert given["RAY_AUTH_MODE"] == "token"


def test_haproxy_keeps_its_statistics_to_itself(cluster: Project) -> None:
    for port in (8404, 9101):
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://{cluster.container('head').address}:{port}/", trust_env=False)


def test_nobody_gets_in_without_the_token(cluster: Project, image: str) -> None:
    (network,) = cluster.container("head").facts["NetworkSettings"]["Networks"]
    stranger = docker(
        "run", "--rm", "--network", network, "-e", "RAY_AUTH_MODE=token", "-e", "RAY_AUTH_TOKEN=" + "0" * 64,
        "-e", "DLENV_ADDRESS=127.0.0.1", image, "serve", "--address", "head:6379", check=False,
    )  # fmt: skip
    assert stranger.returncode == 1
    assert "token" in stranger.stderr.lower()


def test_a_node_without_a_token_says_what_it_lacks(image: str, tmp_path: Path) -> None:
    node = ("--rm", "--init", "--entrypoint", "/usr/local/lib/dlenv/node.sh")
    token = tmp_path / "token"
    token.write_text("0" * 64)
    token.chmod(0)
    secret = ("--volume", f"{token}:/run/secrets/ray_token:ro")
    done = docker("run", *node, *secret, image, "worker", "head", check=False)
    assert done.returncode == 1
    assert "user 1000 can't read the cluster's token /run/secrets/ray_token" in done.stderr
    # It waits for one, but not in silence.
    waiting = docker("run", "--detach", *node, image, "worker", "head").stdout.strip()
    try:
        until = time.monotonic() + BACK_S
        while "Waiting for the cluster's token" not in docker("logs", waiting).stderr:
            assert time.monotonic() < until
            time.sleep(0.5)
    finally:
        docker("stop", "--time", 1, waiting)


def test_a_cluster_with_too_few_workers_says_so_and_serves(new_project: Callable[..., Project]) -> None:
    it = new_project("docker/compose.cluster.yaml", DLENV_REPLICAS="2")
    it.up("--scale", "worker=1")
    said = it.compose("logs", "head").stdout
    assert "Workers: 1, for 2 replicas (DLENV_REPLICAS)" in said
    assert "SIGTERM" not in said
    it.compose("down", "--volumes", "--timeout", 1)


def test_an_update_of_the_service_loses_no_request(cluster: Project) -> None:
    with load(cluster.container("head").address, 8000, CLIENTS) as clients:
        clients.wait(500)
        deploy(cluster, "--max-batch", "32")
        clients.wait(500)
    assert set(clients.outcomes) == {"200"}


def test_an_update_of_the_model_loses_no_request(cluster: Project, repository: Path) -> None:
    url = f"http://{cluster.container('head').address}:8000"
    with load(cluster.container("head").address, 8000, CLIENTS) as clients:
        clients.wait(500)
        # A version 2, as `dlenv train` would publish it: it appears whole, by a rename.
        made = repository / ".version"
        shutil.copytree(SHIPPED / MODEL / "1", made)
        manifest = made / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"version": 1,', '"version": 2,', 1))
        (repository / MODEL).mkdir()
        made.rename(repository / MODEL / "2")
        loaded = httpx.post(f"{url}/v2/repository/models/{MODEL}/load", json={}, timeout=60, trust_env=False)
        assert loaded.status_code == 200, loaded.text
        clients.wait(500)
        versions = httpx.get(f"{url}/v2/models/{MODEL}", trust_env=False).json()["versions"]
    assert "2" in versions
    assert set(clients.outcomes) == {"200"}


def test_a_killed_node_costs_what_it_was_answering(cluster: Project, capsys: pytest.CaptureFixture[str]) -> None:
    wait_for_replicas(cluster, 2)
    victim = next(each for each in cluster.containers("worker") if each.python(REPLICAS).stdout.strip() != "0")
    with load(cluster.container("head").address, 8000, CLIENTS) as clients:
        clients.wait(500)
        began = time.monotonic()
        victim.python(KILL, check=False)
        while sum(replicas(cluster)) >= 2 and time.monotonic() < began + 5:
            time.sleep(0.1)
        wait_for_replicas(cluster, 2)
        full = time.monotonic() - began
        clients.wait(1000)
    assert sum(clients.failed().values()) <= CLIENTS, clients.outcomes
    assert not clients.outcomes["refused"]
    with capsys.disabled():
        print(f"\nnode killed under load: {dict(clients.failed())} failed; both replicas again after {full:.1f} s")


def test_the_service_scales_from_one_to_three_under_load(cluster: Project, capsys: pytest.CaptureFixture[str]) -> None:
    deploy(cluster, "--replicas", "1")  # autoscaling itself would take away the second one after minutes
    wait_for_replicas(cluster, 1)
    deploy(cluster, "--replicas", "1", "--max-replicas", "3", "--max-batch", "1")
    with load(cluster.container("head").address, 8000, 48) as clients:
        clients.wait(500)
        began = time.monotonic()
        cluster.compose("up", "--detach", "--no-recreate", "--scale", "worker=3")
        wait_for_replicas(cluster, 3)
        took = time.monotonic() - began
        clients.wait(1000)
    assert set(clients.outcomes) == {"200"}
    with capsys.disabled():
        print(f"\nfrom one replica to three under load within {took:.1f} s, no request lost")


def test_a_node_that_leaves_loses_no_request(cluster: Project, capsys: pytest.CaptureFixture[str]) -> None:
    leaving = next(each for each in cluster.containers("worker") if each.python(REPLICAS).stdout.strip() != "0")
    with load(cluster.container("head").address, 8000, CLIENTS) as clients:
        clients.wait(500)
        began = time.monotonic()
        docker("stop", "--time", 75, leaving.id)
        took = time.monotonic() - began
        clients.wait(500)
    assert set(clients.outcomes) == {"200"}
    with capsys.disabled():
        print(f"\na node left under load within {took:.1f} s, no request lost")
