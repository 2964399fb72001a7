"""Measurements: checks what is asked for, runs the generator's processes together, and adds up what they saw."""

from __future__ import annotations

import math
import socket
import ssl
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Literal

import msgspec

from dlenv.bench import worker, wrk
from dlenv.bench.histogram import Histogram
from dlenv.bench.job import Job, Outcome
from dlenv.bench.result import Latency, Rejection, Result
from dlenv.bench.target import Address, Target, address, wires
from dlenv.errors import BenchError, UsageError

BUSY_LIMIT = 0.9  # of the time, for one process: above it the generator itself is waited for
WAIT_LIMIT = 0.5  # of the time, for one process: answers that lie there because it can't run look like slow ones
LAG_FLOOR = 0.005  # seconds: programs that share a processor take turns of a few milliseconds
LAG_SHARE = 0.2  # of the service's p99
_CONNECT = 5.0  # seconds for the first connection
_MARGIN = 0.1  # seconds from the last process's readiness to the common beginning


def closed(
    target: Target,
    *,
    connections: int,
    duration: float,
    processes: int = 1,
    tool: Literal["auto", "own", "wrk"] = "auto",
    warm_up: float = 0.5,
) -> Result:
    """Keep ``connections`` requests in flight for ``duration`` seconds, after ``warm_up`` seconds that do not count.

    ``auto`` takes wrk where it is installed and can do it: http only, and at most as many threads as connections.
    wrk counts whole seconds, and does not say which connection an answer came on: where requests expect different
    things, it counts as wrong what none of them expects, and what is answered more often than it was asked. And wrk
    adds to its latencies what it thinks a stall has hidden; ``own`` gives those that were seen.

    Raises:
        UsageError: a value that can't be used.
        BenchError: the service can't be reached, or a process of the generator failed.
    """
    _check(target, connections, duration, processes, warm_up)
    if tool == "wrk" and (problem := wrk.unusable(address(target))):
        raise UsageError(f"wrk can't be used: {problem}; leave the choice to --tool auto")
    _reach(address(target))
    if tool == "wrk" or (tool == "auto" and not wrk.unusable(address(target))):
        if warm_up:
            _together(_jobs(target, connections, None, 1, 0, 0.0, warm_up))
        result = wrk.measure(target, connections, math.ceil(duration), min(processes, connections))
        # wrk's latencies are those of all answers: with others than 200 among them only our own process can tell.
        if tool == "wrk" or not (result.rejected or result.failed):
            return _judged(result, result.client_cpu, 0.0)
    outcomes = _together(_jobs(target, connections, None, processes, 0, warm_up, duration))
    return _result(target, outcomes, connections=connections, offered=None, duration=duration)


def open_loop(
    target: Target,
    *,
    rate: float,
    connections: int,
    duration: float,
    processes: int = 1,
    seed: int = 0,
    warm_up: float = 0.5,
) -> Result:
    """Send ``rate`` requests/s as a Poisson process, on at most ``connections`` at a time, for ``duration`` seconds.

    A request that finds no free connection waits in line, and its latency counts from when it was due: what a
    stalled service would have delayed is measured, not left out ("coordinated omission", G. Tene, "How NOT to Measure
    Latency", 2013).

    Raises:
        UsageError: a value that can't be used.
        BenchError: the service can't be reached, or a process of the generator failed.
    """
    _check(target, connections, duration, processes, warm_up)
    if not (math.isfinite(rate) and rate > 0):
        raise UsageError(f"rate {rate:g} can't be used; give a number of requests a second above 0")
    _reach(address(target))
    outcomes = _together(_jobs(target, connections, rate, processes, seed, warm_up, duration))
    return _result(target, outcomes, connections=connections, offered=rate, duration=duration)


def _check(target: Target, connections: int, duration: float, processes: int, warm_up: float) -> None:
    wires(target)
    if not 1 <= processes <= connections:
        raise UsageError(f"{processes} processes can't share {connections} connections; give each at least one")
    if -(-connections // processes) + worker.OTHER_FILES > (limit := worker.file_limit()):
        raise UsageError(
            f"{connections} connections need more open files than the {limit:.0f} that `ulimit -Hn` allows"
        )
    if not (math.isfinite(duration) and duration > 0):
        raise UsageError(f"duration {duration:g} can't be used; give a number of seconds above 0")
    if not (math.isfinite(warm_up) and warm_up >= 0):
        raise UsageError(f"warm-up {warm_up:g} can't be used; give a number of seconds, or 0")


def _reach(where: Address) -> None:
    try:
        with socket.create_connection((where.host, where.port), _CONNECT) as sock:
            if where.tls:
                ssl.create_default_context().wrap_socket(sock, server_hostname=where.host).close()
    except OSError as error:
        reason = (error.strerror or str(error) or type(error).__name__).lower()
        raise BenchError(f"{where.host}:{where.port} can't be reached ({reason}); is the service running?") from None


def _jobs(
    target: Target, connections: int, rate: float | None, processes: int, seed: int, warm_up: float, duration: float
) -> list[Job]:
    """One job a process; processes whose arrivals are independent of each other make one Poisson process."""
    requests, where = wires(target), address(target)
    jobs = []
    for index in range(processes):
        # Each begins at another request, so that together they use all of them evenly.
        turn = index * len(requests) // processes
        expects = [request.expect for request in target.requests]
        jobs.append(
            Job(
                address=where,
                wires=requests[turn:] + requests[:turn],
                expects=(*expects[turn:], *expects[:turn]),
                rejected=target.rejected,
                connections=connections // processes + (index < connections % processes),
                rate=rate / processes if rate is not None else None,
                seed=seed * processes + index,
                warm_up=warm_up,
                duration=duration,
            )
        )
    return jobs


def _together(jobs: list[Job]) -> list[Outcome]:
    """Run each job in a process of its own, all from the same moment on."""
    with ExitStack() as stack:
        running = []
        for _ in jobs:
            command = [sys.executable, "-c", f"from {worker.__name__} import main; main()"]
            # Ctrl-C is this process's to handle; it ends the others.
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
            stack.enter_context(process)  # closes its pipes and waits for it
            stack.callback(process.kill)
            running.append(process)
        for process, job in zip(running, jobs, strict=True):
            text = msgspec.msgpack.encode(job)
            _tell(process, worker.LENGTH.pack(len(text)) + text)
        for process in running:
            assert process.stdout
            if process.stdout.read(1) != worker.READY:
                raise BenchError(f"a process of the load generator ended with exit code {process.wait()}")
        start = time.monotonic() + _MARGIN
        for process in running:
            _tell(process, worker.START.pack(start))
        outcomes = []
        for process in running:
            output, _ = process.communicate()
            if process.returncode:
                raise BenchError(f"a process of the load generator ended with exit code {process.returncode}")
            outcomes.append(msgspec.msgpack.decode(output, type=Outcome))
        return outcomes


def _tell(process: subprocess.Popen[bytes], text: bytes) -> None:
    assert process.stdin
    try:
        process.stdin.write(text)
        process.stdin.flush()
    except BrokenPipeError:
        raise BenchError(f"a process of the load generator ended with exit code {process.wait()}") from None


def _result(
    target: Target, outcomes: list[Outcome], *, connections: int, offered: float | None, duration: float
) -> Result:
    accepted, turned_away, lag = Histogram(), Histogram(), Histogram()
    failed: dict[str, int] = {}
    for outcome in outcomes:
        accepted.merge(outcome.accepted)
        turned_away.merge(outcome.turned_away)
        lag.merge(outcome.lag)
        for reason, count in outcome.failed.items():
            failed[reason] = failed.get(reason, 0) + count
    result = Result(
        url=target.url,
        mode="closed" if offered is None else "open",
        tool="own",
        processes=len(outcomes),
        connections=connections,
        offered=offered,
        seconds=duration,
        answered=len(accepted),
        rejected=len(turned_away),
        wrong=sum(outcome.wrong for outcome in outcomes),
        queued=sum(outcome.queued for outcome in outcomes),
        failed=failed,
        rate=sum(outcome.in_time for outcome in outcomes) / duration,
        latency=Latency.of(accepted),
        histogram=accepted,
        rejection=Rejection.of(turned_away),
        client_cpu=sum(outcome.cpu for outcome in outcomes) / duration / len(outcomes),
        client_lag=lag.quantile(0.99) if len(lag) else None,
        saturated=None,
    )
    busiest = max(outcomes, key=lambda outcome: outcome.cpu + outcome.delayed)
    return _judged(result, busiest.cpu / duration, busiest.delayed / duration)


def _judged(result: Result, used: float, delayed: float) -> Result:
    """The result, with the reason why the generator was the limit, where it was.

    ``used`` and ``delayed`` are the shares of the time that its busiest process computed, and waited for a processor.
    """
    reason = None
    behind = result.client_lag or 0.0
    if used > BUSY_LIMIT:
        reason = f"the load generator used {used:.0%} of a core; give it more processes, or ask for less"
    elif used + delayed > BUSY_LIMIT or delayed > WAIT_LIMIT:
        reason = (
            f"the load generator waited for a processor {delayed:.0%} of the time; end what else runs on this machine, "
            "or measure from another one"
        )
    elif behind > max(LAG_FLOOR, LAG_SHARE * (result.latency.p99 if result.latency else 0.0)):
        reason = (
            f"the load generator was {behind * 1000:.1f} ms behind its schedule (p99); give it more processes or a "
            "processor of its own, or ask for less"
        )
    return msgspec.structs.replace(result, saturated=reason)
