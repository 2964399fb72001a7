"""`dlenv serve --runtime local` and its fronts, killed and stopped under load; clients that go; clocks that jump."""

from __future__ import annotations

import contextlib
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import psutil
import pytest
from chaos_load import CLIENTS, GOOD, LOST, REFUSED, TOLD, Figure, Load, Question, leave, questions, steady
from test_local import Process, process

from dlenv_models.repository import Repository

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals, /proc, and descriptors that are passed on")

MODEL = "spiral-mlp"
INFER = f"/v2/models/{MODEL}/infer"
FRONT_S = 20.0  # in which a front that was killed is replaced: it starts in a second or two
# A front that is stopped says nothing for 10 s, and is then replaced (fronts/keeper.py, SILENCE).
STUCK_S = 30.0
Figures = list[Figure]


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    return questions(Repository(), MODEL)


@pytest.fixture(scope="module")
def fronted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with process("--models", MODEL, "--fronts", "2") as it:
        it.wait_for("Serving")
        yield it


def fronts(it: Process) -> list[psutil.Process]:
    found = []
    for each in psutil.Process(it.popen.pid).children():
        with contextlib.suppress(psutil.Error):  # it ends while it is looked at
            if "fronts.front" in " ".join(each.cmdline()):
                found.append(each)
    return found


def until(condition: Callable[[], bool], seconds: float, what: object = "") -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def good_for(load: Load, seconds: float) -> bool:
    now = time.monotonic()
    recent = [each for each in load.report.outcomes if each.ended > now - seconds]
    return len(recent) > 10 and all(each.what == GOOD for each in recent)


def test_a_front_is_killed(fronted: Process, asked: list[Question], figures: Figures) -> None:
    victim = fronts(fronted)[0]
    with steady(fronted.port, INFER, asked) as load:
        began = time.monotonic()
        victim.kill()
        until(lambda: victim not in fronts(fronted) and len(fronts(fronted)) == 2, FRONT_S)
        until(lambda: good_for(load, 2), FRONT_S, load.report.details(LOST, TOLD, REFUSED))
    figure = load.report.figure("fronts: SIGKILL of one", began, CLIENTS)
    figures.append(figure)
    assert (figure.wrong, figure.told, figure.refused) == (0, 0, 0)
    assert figure.lost <= CLIENTS
    assert figure.back_s < FRONT_S


@pytest.mark.chaos
def test_a_front_is_stopped(fronted: Process, asked: list[Question], figures: Figures) -> None:
    """Half of the connections go to it until it is found out, and are lost with it."""
    victim = fronts(fronted)[0]
    with steady(fronted.port, INFER, asked) as load:
        began = time.monotonic()
        victim.suspend()
        until(lambda: not victim.is_running() and len(fronts(fronted)) == 2, STUCK_S)
        until(lambda: good_for(load, 2), 20, load.report.details(LOST, TOLD, REFUSED))
    figure = load.report.figure("fronts: SIGSTOP of one", began, CLIENTS * 4)
    figures.append(figure)
    assert (figure.wrong, figure.told, figure.refused) == (0, 0, 0)
    assert figure.lost <= CLIENTS * 4  # a client gives up after 5 s and comes again
    assert figure.back_s < STUCK_S


def test_a_thousand_clients_leave(fronted: Process, asked: list[Question], figures: Figures) -> None:
    main = psutil.Process(fronted.popen.pid)

    def descriptors() -> int:
        return main.num_fds() + sum(each.num_fds() for each in fronts(fronted))

    # A front that another test has killed may still be starting; they are alike once all of them are there.
    until(lambda: len({each.num_fds() for each in fronts(fronted)}) == 1, FRONT_S)
    before = descriptors()
    with steady(fronted.port, INFER, asked) as load:
        began = time.monotonic()
        leave(fronted.port, INFER, asked[0].body)
        time.sleep(3)
    figure = load.report.figure("fronts: 1,000 clients leave", began, 0)
    figures.append(figure)
    assert (figure.wrong, figure.lost, figure.told, figure.refused) == (0, 0, 0, 0)
    until(lambda: descriptors() <= before + 2, 20, (before, descriptors()))
    stats = httpx.get(f"{fronted.url}/v2/models/{MODEL}/stats").json()
    assert stats["model_stats"][0]["inference_stats"]["success"]["count"] >= figure.good


@pytest.mark.chaos
def test_the_main_process_is_stopped_for_a_while(fronted: Process, asked: list[Question], figures: Figures) -> None:
    """Nobody replaces it here; it goes on where it was, and its fronts have not been taken for dead meanwhile."""
    before = fronts(fronted)
    with steady(fronted.port, INFER, asked) as load:
        began = time.monotonic()
        fronted.popen.send_signal(signal.SIGSTOP)
        time.sleep(12)
        fronted.popen.send_signal(signal.SIGCONT)
        resumed = time.monotonic()
        until(lambda: good_for(load, 2), 20, load.report.details(LOST, TOLD, REFUSED))
    figure = load.report.figure("fronts: SIGSTOP of the main process for 12 s", began, CLIENTS * 4)
    figures.append(figure)
    assert figure.wrong == 0
    assert figure.lost <= CLIENTS * 4
    assert figure.back_s < resumed - began + 10
    assert fronts(fronted) == before


@pytest.mark.chaos
def test_the_main_process_is_killed(asked: list[Question], figures: Figures) -> None:
    """Its fronts end with it, and the port is free for the next one."""
    with process("--models", MODEL, "--fronts", "2") as it:
        it.wait_for("Serving")
        left = fronts(it)
        with steady(it.port, INFER, asked) as load:
            began = time.monotonic()
            it.popen.kill()
            psutil.wait_procs(left, timeout=10)
            assert [each for each in left if each.is_running()] == []
            it.popen.wait(10)
            assert it.others() == []
            with process("--models", MODEL, "--fronts", "2", "--port", str(it.port)) as second:
                second.wait_for("Serving")
                until(lambda: good_for(load, 2), 20)
                load.stop()
        figure = load.report.figure("fronts: SIGKILL of the main process, and a new start", began, CLIENTS)
    figures.append(figure)
    assert figure.wrong == 0
    assert figure.lost <= CLIENTS


CLOCK = Path(__file__).parents[1] / "fakes" / "clock.c"


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.chaos
@pytest.mark.parametrize("count", [0, 1])
def test_the_clock_jumps(tmp_path: Path, asked: list[Question], figures: Figures, count: int) -> None:
    """An hour ahead, a day back: deadlines, silences and pauses are counted on another clock, which doesn't jump.

    Not with libfaketime: under it the service answers five requests a second.
    """
    library, offset = tmp_path / "clock.so", tmp_path / "offset"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, CLOCK, "-ldl"], check=True)
    offset.write_bytes(struct.pack("=q", 0))
    with pytest.MonkeyPatch.context() as environment, contextlib.ExitStack() as stack:
        environment.setenv("LD_PRELOAD", str(library))
        environment.setenv("FAKE_CLOCK", str(offset))
        it = stack.enter_context(process("--models", MODEL, "--fronts", str(count)))
        environment.undo()
        it.wait_for("Serving", 120)
        dates = []
        with steady(it.port, INFER, asked) as load:
            began = time.monotonic()
            for jump in (3600, -86_400, 0):
                with offset.open("r+b") as file:
                    file.write(struct.pack("=q", jump))
                time.sleep(2)
                dates.append(parsedate_to_datetime(httpx.get(it.url + "/v2/health/live").headers["date"]))
        assert it.stop(signal.SIGTERM) == 0
    assert 3500 < (dates[0] - dates[2]).total_seconds() < 3700
    assert -86_500 < (dates[1] - dates[2]).total_seconds() < -86_300
    figure = load.report.figure(f"the clock jumps by hours ({count} fronts)", began, 0)
    figures.append(figure)
    assert (figure.wrong, figure.lost, figure.told, figure.refused) == (0, 0, 0, 0)
