"""The end of a container, wanted and unwanted, while clients ask."""

from __future__ import annotations

import time

import pytest
from compose_project import Project
from steady_load import load

# The process that Docker's init started; the init goes with it, and Docker's restart policy does the rest. (After a
# `docker kill` it does not.)
KILL = """
import os, pathlib, signal
for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
    if stat.read_text().rpartition(")")[2].split()[1] == "1" and b"serve" in (stat.parent / "cmdline").read_bytes():
        print(stat.parent.name)
        os.kill(int(stat.parent.name), signal.SIGKILL)
        break
"""
# A replica that does nothing any more and does not end, or goes on.
SIGNAL = """
import os, pathlib, signal
for process in pathlib.Path("/proc").glob("[0-9]*"):
    if (process / "cmdline").read_bytes().startswith(b"ray::" + b"ServeReplica"):
        os.kill(int(process.name), signal.{name})
"""
BACK_S = 120


def test_a_container_that_is_stopped_answers_what_it_accepted(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.up()
    container = project.container()
    # Not by the published port: Docker's own proxy there accepts connections that the service never sees.
    with load(container.address, 8000) as clients:
        clients.wait(500)
        began = time.monotonic()
        project.compose("stop")
        took = time.monotonic() - began
        time.sleep(0.5)
    state = container.facts["State"]
    assert (state["Running"], state["ExitCode"]) == (False, 0)
    assert not clients.failed(), clients.outcomes
    assert clients.outcomes["refused"]
    with capsys.disabled():
        print(f"\nstopped under load after {took:.1f} s, {clients.answered()} requests answered, none lost")
    project.up()


def test_a_service_that_hangs_is_unhealthy_and_one_that_goes_on_is_healthy(project: Project) -> None:
    project.up()
    container = project.container()
    started = container.facts["State"]["StartedAt"]
    assert container.health == "healthy"
    began = time.monotonic()
    while container.health != "unhealthy":
        assert time.monotonic() - began < BACK_S
        # Again and again, because Serve puts another in the place of one that does not answer.
        container.python(SIGNAL.format(name="SIGSTOP"), check=False)
        time.sleep(0.5)
    container.python(SIGNAL.format(name="SIGCONT"), check=False)
    while container.health != "healthy":
        assert time.monotonic() - began < 2 * BACK_S
        time.sleep(0.2)
    assert container.facts["State"]["StartedAt"] == started


def test_a_container_that_is_killed_comes_back(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.up()
    container = project.container()
    restarts = container.facts["RestartCount"]
    with load(container.address, 8000) as clients:
        clients.wait(500)
        began = time.monotonic()
        container.python(KILL, check=False)  # the container may end before it does
        while container.facts["RestartCount"] == restarts:
            assert time.monotonic() - began < BACK_S
            time.sleep(0.1)
        before = clients.answered()
        while clients.answered() < before + 100:
            assert time.monotonic() - began < BACK_S, clients.outcomes
            time.sleep(0.05)
        back = clients.last_failure - began
        failures = clients.failed()
        clients.wait(500)
        assert clients.failed() == failures  # once back, it is back for good
    assert container.address  # the same one: Docker keeps it
    with capsys.disabled():
        print(f"\nkilled under load, answering again after {back:.1f} s; meanwhile {dict(failures)}")
