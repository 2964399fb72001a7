"""The closed loop by wrk: it must count as our own generator does, and say where it can't."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from bench_server import CLOSE, OK, Asked, answer, serving

from dlenv.bench import Request, Result, Target, closed
from dlenv.errors import UsageError

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed (apt-get install wrk)")
pytestmark = pytest.mark.slow  # they measure, which takes its time

KINDS = tuple(Request(body=b"%d" % kind, expect=b"\0kind %d\n" % kind) for kind in range(5))


def wrk(target: Target, connections: int = 4, processes: int = 1) -> Result:
    return closed(target, connections=connections, duration=1, processes=processes, tool="wrk", warm_up=0)


def right(asked: Asked) -> bytes:
    time.sleep(0.01)
    return answer(b"a\0kind %s\nb" % asked.body)


@needs_wrk
def test_it_agrees_with_our_own_generator() -> None:
    with serving(right) as server:
        target = Target(url=f"{server.url}?a=1", requests=KINDS)
        by_wrk = wrk(target)
        seen = server.requests
        ours = closed(target, connections=4, duration=1, tool="own", warm_up=0.1)
    assert (by_wrk.tool, by_wrk.mode, by_wrk.processes, by_wrk.connections) == ("wrk", "closed", 1, 4)
    assert set(by_wrk.problems()) <= {by_wrk.saturated}
    assert seen - 4 <= by_wrk.answered <= seen
    assert by_wrk.rate == pytest.approx(ours.rate, rel=0.35)
    assert by_wrk.latency is not None
    assert ours.latency is not None
    assert 0.01 <= by_wrk.latency.p50 < 0.03
    assert by_wrk.latency.p50 == pytest.approx(ours.latency.p50, rel=0.35)
    assert by_wrk.latency.p50 <= by_wrk.latency.p90 <= by_wrk.latency.p99 <= by_wrk.latency.max
    assert len(by_wrk.histogram) == by_wrk.answered
    assert by_wrk.histogram.quantile(0.5) == pytest.approx(by_wrk.latency.p50, rel=0.03)
    assert 0 < by_wrk.client_cpu < 0.9


@needs_wrk
def test_it_sends_the_same_bytes() -> None:
    seen: list[Asked] = []

    def answering(asked: Asked) -> bytes:
        seen.append(asked)
        time.sleep(0.05)
        return OK

    body = bytes(range(256)) * 4
    with serving(answering) as server:
        wrk(Target(url=server.url, requests=(Request(body=body, headers=(("X-Kind", "a b"),)),)), connections=1)
        closed(
            Target(url=server.url, requests=(Request(body=body, headers=(("X-Kind", "a b"),)),)),
            connections=1,
            duration=0.2,
            tool="own",
        )
    first, last = seen[0], seen[-1]
    assert (first.line, first.headers, first.body) == (last.line, last.headers, last.body)
    assert first.body == body


@needs_wrk
def test_threads_share_the_connections() -> None:
    with serving(right) as server:
        result = wrk(Target(url=server.url, requests=KINDS), connections=6, processes=2)
    assert (result.processes, result.connections) == (2, 6)
    assert set(result.problems()) <= {result.saturated}


@needs_wrk
def test_an_answer_that_no_request_expects_is_wrong() -> None:
    def answering(asked: Asked) -> bytes:
        return answer(b"else") if asked.number % 10 == 9 else right(asked)

    with serving(answering) as server:
        result = wrk(Target(url=server.url, requests=KINDS))
    assert result.wrong / (result.wrong + result.answered) == pytest.approx(0.1, abs=0.03)


@needs_wrk
def test_one_answer_to_everything_is_wrong() -> None:
    """Any single answer might be right; that all of them are the same is not."""

    def answering(asked: Asked) -> bytes:
        time.sleep(0.01)
        return answer(b"\0kind 3\n")

    with serving(answering) as server:
        result = wrk(Target(url=server.url, requests=KINDS))
    assert result.wrong / (result.wrong + result.answered) == pytest.approx(0.8, abs=0.05)


@needs_wrk
def test_other_statuses_and_lost_connections() -> None:
    def answering(asked: Asked) -> bytes:
        time.sleep(0.005)
        if asked.number % 4 == 1:
            return answer(b"busy", "503 Service Unavailable")
        if asked.number % 4 == 2:
            return answer(b"oh", "500 Internal Server Error")
        return CLOSE if asked.number % 4 == 3 else answer(b"\0kind %s\n" % asked.body)

    with serving(answering) as server:
        target = Target(url=server.url, requests=KINDS)
        result = wrk(target)
        chosen = closed(target, connections=4, duration=1, tool="auto", warm_up=0)
    assert set(result.failed) == {"status 500", "closed before the answer"}
    assert result.rejected > 5
    assert result.answered > 5
    assert result.latency is None  # wrk mixes them all
    assert len(result.histogram) == 0
    # Where wrk can't tell the latencies apart, our own process measures.
    assert chosen.tool == "own"
    assert chosen.latency is not None
    assert chosen.rejection is not None


@needs_wrk
def test_it_is_taken_where_it_is_installed() -> None:
    with serving(right) as server:
        assert closed(Target(url=server.url, requests=KINDS), connections=2, duration=0.5).tool == "wrk"


def test_it_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with serving(right) as server:
        target = Target(url=server.url, requests=KINDS)
        assert closed(target, connections=2, duration=0.2).tool == "own"
        with pytest.raises(UsageError, match="apt-get install wrk"):
            wrk(target)
