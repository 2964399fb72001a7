"""The load generator against servers that behave in every way: what it counts, and what it measures."""

from __future__ import annotations

import contextlib
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from bench_server import CLOSE, OK, Asked, answer, serving

from dlenv.bench import Request, Result, Target, closed, open_loop
from dlenv.errors import BenchError, UsageError

pytestmark = pytest.mark.slow  # they measure, which takes its time

ONE = (Request(body=b"question", expect=b"ok"),)


def own(
    target: Target, *, connections: int = 4, duration: float = 0.3, warm_up: float = 0.1, processes: int = 1
) -> Result:
    return closed(target, connections=connections, duration=duration, warm_up=warm_up, processes=processes, tool="own")


def slow(seconds: float, reply: bytes = OK):  # type: ignore[no-untyped-def]
    def answering(asked: Asked) -> bytes:
        time.sleep(seconds)
        return reply

    return answering


# What is sent


def test_a_request_as_it_arrives() -> None:
    seen: list[Asked] = []

    def answering(asked: Asked) -> bytes:
        seen.append(asked)
        return OK

    with serving(answering) as server:
        request = Request(body=b"\0\r\n\xff", headers=(("X-Kind", "a b"), ("content-length", "4")), expect=b"ok")
        own(Target(url=f"{server.url}?q=1", requests=(request,), method="PUT"), connections=1, duration=0.1)
    assert seen[0].line == "PUT /ask?q=1 HTTP/1.1"
    assert seen[0].body == b"\0\r\n\xff"
    assert seen[0].headers["host"] == f"127.0.0.1:{server.port}"
    assert seen[0].headers["x-kind"] == "a b"


def test_requests_are_used_in_turn_by_all_processes() -> None:
    counts = [0] * 5

    def answering(asked: Asked) -> bytes:
        counts[int(asked.body)] += 1
        return OK

    requests = tuple(Request(body=b"%d" % number) for number in range(5))
    with serving(answering) as server:
        own(Target(url=server.url, requests=requests), connections=4, processes=2)
    assert min(counts) > 10
    assert max(counts) - min(counts) <= 2 * 5  # each process is anywhere in its turn


def test_a_request_that_does_not_fit_into_the_sockets_buffers() -> None:
    body = bytes(range(256)) * 20_000  # 5 MB
    with serving(lambda asked: answer(asked.body)) as server:
        target = Target(url=server.url, requests=(Request(body=body, expect=body),))
        result = own(target, connections=2, duration=1, warm_up=0)
    assert result.answered > 0
    assert (result.wrong, result.failed) == (0, {})


# What is counted, closed loop


def test_latency_and_rate_of_a_slow_service() -> None:
    with serving(slow(0.05)) as server:
        result = own(Target(url=server.url, requests=ONE), connections=4, duration=1)
    assert (result.mode, result.tool, result.connections, result.offered) == ("closed", "own", 4, None)
    assert result.latency is not None
    assert 0.05 <= result.latency.p50 < 0.075
    assert result.latency.p50 <= result.latency.p90 <= result.latency.p99 <= result.latency.p999 <= result.latency.max
    # 4 in flight, 50 ms each: 80 a second at most; the machine may be busy.
    assert 40 < result.rate <= 84
    assert result.answered == len(result.histogram) == round(result.rate * result.seconds)
    assert result.client_cpu < 0.5
    assert set(result.problems()) <= {result.saturated}  # other work on the machine is no fault of the result


def test_every_answer_is_checked() -> None:
    """Each request expects another answer; one in ten is answered as another request should be."""

    def answering(asked: Asked) -> bytes:
        kind = int(asked.body)
        return answer(b"kind %d" % ((kind + 1) % 7 if asked.number % 10 == 9 else kind))

    requests = tuple(Request(body=b"%d" % kind, expect=b"kind %d" % kind) for kind in range(7))
    with serving(answering) as server:
        result = own(Target(url=server.url, requests=requests), connections=8)
    assert result.answered > 50
    assert result.wrong / (result.wrong + result.answered) == pytest.approx(0.1, abs=0.03)
    assert any("answers were wrong" in problem for problem in result.problems())


def test_rejections_are_not_failures_and_not_answers() -> None:
    def answering(asked: Asked) -> bytes:
        if asked.number % 2:
            return answer(b"busy", "429 Too Many Requests", "Retry-After: 1")
        time.sleep(0.02)
        return OK

    with serving(answering) as server:
        result = own(Target(url=server.url, requests=ONE))
    assert result.rejected > 10
    assert result.failed == {}
    assert result.latency is not None
    assert result.rejection is not None
    assert result.latency.p50 >= 0.02
    assert result.rejection.p50 < 0.015
    assert set(result.problems()) <= {result.saturated}  # other work on the machine is no fault of the result


def test_another_status_is_a_failure() -> None:
    with serving(slow(0.01, answer(b"ok", "500 Internal Server Error"))) as server:
        result = own(Target(url=server.url, requests=ONE))
    assert result.answered == 0
    assert result.latency is None
    assert list(result.failed) == ["status 500"]
    assert result.failed["status 500"] > 10
    assert "nothing was answered" in result.problems()


@pytest.mark.parametrize(
    "reply",
    [
        answer(b"ok", "200 OK", "Connection: close"),
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok",  # ended by the connection's end
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nX: connection: close\r\n\r\nok",
    ],
)
def test_a_connection_that_the_server_closes_is_opened_again(reply: bytes) -> None:
    with serving(slow(0, reply)) as server:
        result = own(Target(url=server.url, requests=ONE))
    assert result.answered > 20
    assert result.failed == {}
    assert server.connections >= result.answered


def test_a_connection_that_ends_instead_of_an_answer() -> None:
    with serving(lambda asked: CLOSE if asked.number % 5 == 4 else OK) as server:
        result = own(Target(url=server.url, requests=ONE))
    assert result.answered > 20
    assert list(result.failed) == ["closed before the answer"]


def test_what_is_no_http_is_a_failure() -> None:
    with serving(slow(0.01, b"220 mail ESMTP\r\n\r\n")) as server:
        result = own(Target(url=server.url, requests=ONE))
    assert result.answered == 0
    assert all(reason.startswith("no HTTP/1.1 response") for reason in result.failed)


def test_a_service_that_never_answers() -> None:
    done = threading.Event()

    def answering(asked: Asked) -> bytes:
        done.wait()
        return OK

    with serving(answering) as server:
        result = own(Target(url=server.url, requests=ONE), connections=3, duration=0.3)
        done.set()
    assert result.failed == {"no answer": 3}
    assert result.answered == 0


def test_processes_share_the_connections() -> None:
    with serving(slow(0.02)) as server:
        result = own(Target(url=server.url, requests=ONE), connections=5, processes=2)
        assert server.connections - 1 == 5  # one more asked whether it can be reached
    assert result.processes == 2
    assert set(result.problems()) <= {result.saturated}  # other work on the machine is no fault of the result


# Open loop


def test_the_open_loop_sends_what_is_due() -> None:
    with serving(slow(0.01)) as server:
        target = Target(url=server.url, requests=ONE)
        result = open_loop(target, rate=200, connections=50, duration=1.5, processes=2, warm_up=0.2)
        again = open_loop(target, rate=200, connections=50, duration=0.5, seed=1, warm_up=0)
    assert (result.mode, result.tool, result.offered) == ("open", "own", 200)
    assert result.answered == pytest.approx(300, abs=5 * 300**0.5)  # five standard deviations of a Poisson count
    assert result.rate == pytest.approx(result.answered / 1.5, rel=0.1)
    assert result.latency is not None
    assert result.latency.p50 >= 0.01
    assert result.client_lag is not None
    assert again.answered == pytest.approx(100, abs=50)


def test_a_stall_shows_in_an_open_loop_which_a_closed_one_hides() -> None:
    """The service stops for 1 s. At 200 requests/s for 3 s, a third of all is due then and waits 0 to 1 s, evenly.

    So a hundredth of all waits longer than 1 - 0.01 * 3 = 0.97 s, and half of a third longer than 0.5 s. A closed
    loop of 4 just stops with the service: 4 of its thousands of requests are slow.
    """
    turn = threading.Lock()
    stall_at = [float("inf")]

    def answering(asked: Asked) -> bytes:
        with turn:
            if time.monotonic() >= stall_at[0]:
                stall_at[0] = float("inf")
                time.sleep(1)
        return OK

    with serving(answering) as server:
        target = Target(url=server.url, requests=ONE)
        stall_at[0] = time.monotonic() + 1.5
        result = open_loop(target, rate=200, connections=64, duration=3, warm_up=0.2)
        assert stall_at[0] == float("inf")
        stall_at[0] = time.monotonic() + 1
        hidden = closed(target, connections=4, duration=2.5, warm_up=0.2, tool="own")
        assert stall_at[0] == float("inf")
    assert result.latency is not None
    assert result.latency.p99 == pytest.approx(0.97, abs=0.1)
    assert result.latency.max == pytest.approx(1, abs=0.1)
    assert result.latency.p50 < 0.1
    late = sum(count for begin, _, count in result.histogram.filled() if begin > 0.5)
    assert late / result.answered == pytest.approx(1 / 6, abs=0.05)
    assert hidden.latency is not None
    assert hidden.latency.max > 0.9
    assert hidden.latency.p99 < 0.2


def test_requests_wait_in_line_for_a_connection() -> None:
    """Two connections, 20 ms an answer: 100 a second at most. At 150 a second the line grows."""
    with serving(slow(0.02)) as server:
        target = Target(url=server.url, requests=ONE)
        result = open_loop(target, rate=150, connections=2, duration=1, warm_up=0)
        assert server.connections - 1 == 2
        enough = open_loop(target, rate=20, connections=64, duration=0.5, warm_up=0)
    assert result.rate <= 102
    assert result.latency is not None
    # The last ones are due when 100 of 150 are answered, and wait for the other 50: half a second at 100 a second.
    assert result.latency.max > 0.3
    assert result.failed == {}  # those still in line at the end were answered soon after it
    assert result.answered > result.rate * result.seconds
    assert 50 < result.queued <= result.answered
    assert enough.queued == 0


def test_an_open_loop_opens_closed_connections_again() -> None:
    with serving(slow(0, answer(b"ok", "200 OK", "Connection: close"))) as server:
        result = open_loop(Target(url=server.url, requests=ONE), rate=100, connections=8, duration=1, warm_up=0)
    assert result.failed == {}
    assert result.answered == pytest.approx(100, abs=50)


def test_an_open_loop_survives_the_end_of_the_service() -> None:
    with serving(slow(0)) as server:
        box: list[Result] = []
        target = Target(url=server.url, requests=ONE)
        thread = threading.Thread(
            target=lambda: box.append(open_loop(target, rate=100, connections=8, duration=1, warm_up=0))
        )
        thread.start()
        until = time.monotonic() + 20
        while server.requests < 30 and time.monotonic() < until:
            time.sleep(0.01)
    thread.join()
    (result,) = box
    assert result.answered >= 20
    assert result.failed["connection refused"] > 5
    # Every request that was due is accounted for.
    assert result.answered + sum(result.failed.values()) == pytest.approx(100, abs=50)


# When the generator is the limit


def test_more_than_the_generator_can_send_is_not_a_result() -> None:
    with serving(slow(0)) as server:
        result = open_loop(Target(url=server.url, requests=ONE), rate=1.5e6, connections=4, duration=0.02, warm_up=0)
    assert result.saturated is not None
    assert "load generator" in result.saturated
    assert result.saturated in result.problems()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how long a process waits for a processor")
def test_a_generator_that_waits_for_a_processor_is_not_a_result() -> None:
    """From the first request on, it shares its processor with 12 programs that always want it.

    Each is a session of its own, as the generator is: Linux divides a processor among sessions first (autogroup).
    """
    processor = {min(os.sched_getaffinity(0))}
    box: list[Result] = []
    with contextlib.ExitStack() as stack:
        starts = []
        for _ in range(12):
            words = ["sh", "-c", "read go; while :; do :; done"]
            spinning = stack.enter_context(subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True))
            stack.callback(spinning.kill)
            assert spinning.stdin is not None
            os.sched_setaffinity(spinning.pid, processor)
            starts.append(spinning.stdin)

        def answering(asked: Asked) -> bytes:
            for start in starts if asked.number == 0 else ():
                start.write(b"go\n")
                start.flush()
            return OK

        def measure() -> None:  # in a thread of its own, whose processor goes to what it starts
            os.sched_setaffinity(0, processor)
            box.append(own(Target(url=server.url, requests=ONE), connections=16, warm_up=0.2))

        server = stack.enter_context(serving(answering))
        thread = threading.Thread(target=measure)
        thread.start()
        thread.join()
    (result,) = box
    assert result.saturated is not None
    assert "waited for a processor" in result.saturated


# https


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes the certificate, is not installed")
def test_https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    extra = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*words, *extra], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    body = bytes(range(256)) * 500  # many records of TLS
    with serving(lambda asked: answer(asked.body), tls=context) as server:
        target = Target(url=f"https://localhost:{server.port}/", requests=(Request(body=body, expect=body),))
        with pytest.raises(BenchError, match="certificate verify failed"):
            closed(target, connections=2, duration=0.3)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        result = closed(target, connections=2, duration=0.3, tool="auto")
        spread = open_loop(target, rate=100, connections=4, duration=0.3, warm_up=0)
        with pytest.raises(UsageError, match="wrk can't be used"):
            closed(target, connections=2, duration=0.3, tool="wrk")
    assert (result.tool, result.failed, result.wrong) == ("own", {}, 0)
    assert result.answered > 5
    assert spread.answered > 5
    assert spread.failed == {}


# Open files


_FEW_FILES = """
import resource, sys
from dlenv.bench import Request, Target, closed
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), int(sys.argv[3])))
# Long enough for each of the server's hundred threads to have its turn on a machine that does other things, too.
result = closed(Target(url=sys.argv[1], requests=(Request(body=b""),)), connections=100, duration=3, tool="own")
print(result.failed, result.answered >= 100)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows does not limit open files this way")
def test_more_connections_than_files_may_be_open() -> None:
    with serving(slow(0)) as server:
        words = [sys.executable, "-c", _FEW_FILES, server.url]
        raised = subprocess.run([*words, "50", "200"], capture_output=True, text=True, check=False)
        refused = subprocess.run([*words, "50", "60"], capture_output=True, text=True, check=False)
    assert (raised.stdout, raised.stderr) == ("{} True\n", "")
    assert "100 connections need more open files than the 60" in refused.stderr


# What can't be measured


def test_nothing_listens() -> None:
    with serving(slow(0)) as server:
        pass
    for measure in (
        lambda target: closed(target, connections=1, duration=1),
        lambda target: open_loop(target, rate=1, connections=1, duration=1),
    ):
        with pytest.raises(BenchError, match=f"127.0.0.1:{server.port} can't be reached \\(connection refused\\)"):
            measure(Target(url=server.url, requests=ONE))


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        ({"url": "ftp://a/"}, {}, "is not an http or https URL"),
        ({"url": "http://"}, {}, "is not an http or https URL"),
        ({"url": "http://a:99999/"}, {}, "is not an http or https URL"),
        ({"url": "http://a/b c\r\nX: y"}, {}, "is not an http or https URL"),
        ({"requests": ()}, {}, "there is no request"),
        ({"method": "HEAD"}, {}, "method 'HEAD'"),
        ({"method": "A B"}, {}, "method 'A B'"),
        ({"requests": (Request(body=b"", headers=(("A", "b\r\nC: d"),)),)}, {}, "header 'A'"),
        ({"requests": (Request(body=b"", headers=(("A:", "b"),)),)}, {}, "header 'A:'"),
        ({}, {"connections": 0}, "can't share 0 connections"),
        ({}, {"processes": 0}, "0 processes"),
        ({}, {"processes": 3}, "3 processes can't share 2"),
        ({}, {"duration": 0}, "duration 0"),
        ({}, {"duration": float("inf")}, "duration inf"),
        ({}, {"warm_up": -1}, "warm-up -1"),
    ],
)
def test_what_makes_no_sense(target: dict[str, object], options: dict[str, float], words: str) -> None:
    wanted = Target(**{"url": "http://127.0.0.1:1/", "requests": ONE, **target})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=words):
        closed(wanted, **{"connections": 2, "duration": 1, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_rates_that_make_no_sense(rate: float) -> None:
    with pytest.raises(UsageError, match="rate"):
        open_loop(Target(url="http://127.0.0.1:1/", requests=ONE), rate=rate, connections=1, duration=1)
