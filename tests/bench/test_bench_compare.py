"""What the benchmark computes, and one peer of it for real: started, asked, checked and ended."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import psutil
import pytest
from compare import put
from lifecycle import MARK, running
from loads import WIRES, Figures, Images, Load, Overload, digits, requests
from peers.lenet import IMAGE, Classifier
from report import Conditions, section
from services import SERVICES, Failed
from turns import Table, Turn, goodput, rate, rejection

from dlenv.bench import Histogram, Result

UVICORN = next(service for service in SERVICES if service.name == "uvicorn")


def result(rate: float, answered: int, rejected: int = 0, wrong: int = 0) -> Result:
    return Result(
        url="http://127.0.0.1:1",
        mode="closed",
        tool="own",
        processes=1,
        connections=1,
        offered=None,
        seconds=1.0,
        answered=answered,
        rejected=rejected,
        wrong=wrong,
        queued=0,
        failed={},
        rate=rate,
        latency=None,
        histogram=Histogram(),
        rejection=None,
        client_cpu=0.1,
        client_lag=None,
        saturated=None,
    )


def turn(service: str, number: int, speed: float) -> Turn:
    return Turn(service, number, closed={32: Figures(1, result(speed, int(speed)), 0.5)})


def test_ratios_are_taken_within_a_round() -> None:
    turns = [turn("a", 1, 100), turn("b", 1, 50), turn("a", 2, 1000), turn("b", 2, 400), turn("a", 3, 10)]
    table = Table(turns)
    assert table.median("a", rate(32)) == 100
    assert table.ratio("a", "b", rate(32)) == pytest.approx((2.0 + 2.5) / 2)
    assert math.isnan(table.ratio("a", "c", rate(32)))
    assert math.isnan(table.median("a", rate(128)))


def test_a_rejection_costs_what_the_accepted_ones_leave() -> None:
    peak = Figures(1, result(1000, 1000), 0.5)  # 500 us an answer
    overload = Overload(peak, {2: Figures(1, result(800, 800, rejected=1000), 0.5)})
    measured = Turn("a", 1, overload={1: overload})
    assert goodput(1, 2)(measured) == pytest.approx(0.8)
    assert rejection(1, 2)(measured) == pytest.approx(0.2)  # 0.1 s for 1,000 of them


def test_the_section_names_what_failed_and_what_was_wrong() -> None:
    wrong = Turn("dlenv local", 1, closed={1: Figures(1, result(10, 10, wrong=3), 0.1)})
    broken = Turn("uvicorn", 1, problem="not ready\nwithin 180 s")
    conditions = Conditions(rounds=1, duration=1.0, others=0.0, loops={"eager": (1.0, 2.0)})
    text = section([UVICORN], [wrong, broken], conditions)
    assert "10 answers were right and 3 wrong." in text
    assert "dlenv local, round 1, 1 connections: 3 answers were wrong" in text
    assert "uvicorn, round 1: not ready within 180 s" in text


def test_a_section_comes_before_the_older_ones(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("# Measurements\n\nNewest first.\n\n## old\n\ntext\n")
    put("## new\n\nfigures\n", path)
    assert path.read_text() == "# Measurements\n\nNewest first.\n\n## new\n\nfigures\n\n## old\n\ntext\n"
    put("## first\n", tmp_path / "none.md")
    assert (tmp_path / "none.md").read_text() == "## first\n"


def test_each_wire_expects_its_own_digit_only() -> None:
    images = [Images(bytes([digit]) * IMAGE, (digit,)) for digit in range(10)]
    for wire in WIRES.values():
        for rows in (1, 64):
            assert len({request.expect for request in requests(wire, images, rows)}) == 10


@pytest.mark.slow
def test_a_peer_is_asked_checked_and_ended() -> None:
    images = digits(Classifier())
    with running(UVICORN) as started:
        load = Load(started, images, 1.0)
        assert started.wait_ready(load.right) > 0
        assert load.right(64)
        figures = load.closed(1, 4)
        assert figures.result.answered > 0
        assert figures.result.problems() == () or figures.result.saturated  # a busy machine is no fault of the peer
        assert 0 < figures.cpu_us < 1e6
        assert started.memory_mib() > 10
        # The other way round: answers for other images than it was asked about are found to be wrong.
        swapped = Load(started, [Images(images[1].pixels, (0,)), *images[1:]], 1.0)
        assert not swapped.right()
        assert swapped.closed(1, 4).result.wrong > 0
        marked = {process.pid for process in started.processes()}
        assert marked
    assert not any(psutil.pid_exists(pid) for pid in marked)
    assert started.id not in {_mark(process) for process in psutil.process_iter()}


def test_what_ends_at_once_is_a_failure_with_its_last_words() -> None:
    command = ("{python}", "-c", "import sys; sys.exit('no such luck')")
    with (
        running(msgspec.structs.replace(UVICORN, command=command)) as started,
        pytest.raises(Failed, match="no such luck"),
    ):
        started.wait_ready(lambda: False)


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK)
    except psutil.Error:
        return None
