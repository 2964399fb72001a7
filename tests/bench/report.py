"""The Markdown section of a run."""

from __future__ import annotations

import math
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import psutil
import torch
import turns as of
from loads import BATCH_CONNECTIONS, CONNECTIONS, OVERLOADS, WARM_UP, WIRES
from peers.lenet import MAX_BATCH
from services import MODEL, SERVICES, Service, version
from turns import Table, Turn, images

DLENV = ("dlenv ray", "dlenv local", "dlenv fronts", "dlenv ray onnx", "dlenv fronts onnx")
ENGINES = {service.name: service.engine for service in SERVICES}

CONDITIONS = """\
`{model}` in the same engine in every service: dlenv's own eager PyTorch on one thread (channels last, batches as large
as is fastest, freed memory kept), or ONNX Runtime where that is named; batches of at most {batch}. Only "plain" is
eager PyTorch without these choices, as most people run it.
Each of {rounds} rounds starts, asks and stops one service after the other, so that it has the machine to itself but for
the load generator, which shares its cores ({tool}; connections are kept alive; {duration:g} s a load after {warm_up:g}
s to warm up). The requests are ten real digits in turn, and every answer is searched for its labels. Figures are
medians over the rounds, ratios medians of each round's ratio. CPU is user and system time of all of the service's
processes for each answer. Latencies are milliseconds.

When the run began, everything else used {others:.0f} % of the machine. The bare engine in a loop:
{loops}."""

OVERLOAD = """\
Poisson arrivals at multiples of the peak, with the service on one half of the cores and the load generator on the other
(the peak is measured the same way). What the generator really brought to an answer or a rejection is said as *reached*,
in times the peak. Goodput is right answers a second; latency is of accepted requests, from when they were due. A
rejection's CPU time is what is left when every accepted request is counted as at the peak, so it can come out below
nothing."""

LIFE = """\
From the start of the command to the first right answer, with everything installed and read before; from Ctrl-C to the
end of the command, idle; the memory of all processes (proportional set size)."""


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """How a run was made, and what the bare loop of each engine gave (images/s, one by one and in batches of 64)."""

    rounds: int
    duration: float  # seconds of a load
    others: float  # percent of the machine that something else used before it began
    loops: dict[str, tuple[float, float]]


def section(services: list[Service], turns: list[Turn], conditions: Conditions) -> str:
    """The whole section."""
    table = Table(turns)
    parts = [
        _head(services, conditions),
        _one_image(services, table),
        _ratios(table),
        _batches(services, table),
        _overload([service for service in services if service.overload], table),
        _life(services, table),
        _problems(turns),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(services: list[Service], conditions: Conditions) -> str:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    memory = psutil.virtual_memory().total / 2**30
    machine = f"{os.cpu_count()} cores ({_processor()}), {memory:.0f} GiB, {gpu}"
    system = f"{platform.platform(terse=True)}, Python {platform.python_version()}"
    tool = "wrk, one thread" if shutil.which("wrk") else "one Python process"
    loops = "; ".join(
        f"{engine}, {single:,.0f} images/s one by one, {batched:,.0f} in batches of {MAX_BATCH}"
        for engine, (single, batched) in conditions.loops.items()
    )
    text = CONDITIONS.format(
        model=MODEL,
        batch=MAX_BATCH,
        rounds=conditions.rounds,
        tool=tool,
        duration=conditions.duration,
        warm_up=WARM_UP,
        others=conditions.others,
        loops=loops,
    )
    rows = [[each.name, each.what, WIRES[each.wire].what, _versions(each)] for each in services]
    return "\n\n".join(
        (
            f"## {datetime.now(timezone.utc).date()}, {machine}, {system}",
            f"### dlenv beside other model servers: `make bench`, commit {_commit()}",
            text,
            _markdown(["service", "set-up", "wire", "version"], rows),
        )
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {platform.machine()}"
    return platform.machine()


def _versions(service: Service) -> str:
    try:
        return ", ".join(f"{package} {version(service, package)}" for package in service.packages)
    except (OSError, subprocess.CalledProcessError):
        return "not installed"


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _one_image(services: list[Service], table: Table) -> str:
    titles = ["service"]
    for title in ("requests/s", "p50 / p99", "CPU µs"):
        titles += [f"{title} at {each}" for each in CONNECTIONS]
    rows = []
    for name in (service.name for service in services):
        row = [name, *(_whole(table.median(name, of.rate(each))) for each in CONNECTIONS)]
        row += [_both(*(table.median(name, of.latency(each, p)) for p in ("p50", "p99"))) for each in CONNECTIONS]
        rows.append([*row, *(_whole(table.median(name, of.cpu(each))) for each in CONNECTIONS)])
    return "#### One image a request\n\n" + _markdown(titles, rows)


def _ratios(table: Table) -> str:
    """What dlenv aims at: each row says what, the bound, and whether to be at least or at most that."""

    def beside(peer: str, value: of.Value) -> Callable[[str], float]:
        return lambda name: table.ratio(name, peer, value) if ENGINES[name] == ENGINES[peer] else of.NAN

    def own(value: of.Value) -> Callable[[str], float]:
        return lambda name: table.median(name, value)

    peers = (
        ("mosec", 1.3),
        ("mosec plain", 1.3),
        ("triton", 4.0),
        ("litserve", 10.0),
        ("bentoml", 10.0),
        ("ray serve", 30.0),
    )
    goals: list[tuple[str, str, float, Callable[[str], float]]] = []
    for each in CONNECTIONS[1:]:
        for peer, bound in (*peers, ("mosec onnx", 1.0), ("triton onnx", 1.0)):
            goals.append((f"requests/s at {each} connections / {peer}", ">=", bound, beside(peer, of.rate(each))))
    goals.append(("p50 at 1 connection / uvicorn", "<=", 1.0, beside("uvicorn", of.latency(1, "p50"))))
    goals += [(f"p99/p50 at {each} / mosec", "<=", 1.0, beside("mosec", of.tail(each))) for each in CONNECTIONS]
    goals.append((f"images/s with {images(MAX_BATCH)} / bare loop", ">=", 0.9, own(of.of_bare)))
    for rows, times, bound in ((1, 2, 0.8), (1, 5, 0.5), (MAX_BATCH, 2, 0.9), (MAX_BATCH, 5, 0.9)):
        what = f"goodput at {times} times the capacity / peak, {images(rows)}"
        goals.append((what, ">=", bound, own(of.goodput(rows, times))))
    for times in OVERLOADS:
        what = f"CPU of a rejection / of an answer, {times} times the capacity"
        goals.append((what, "<=", 0.2, own(of.rejection(1, times))))
    run = "ray serve"
    goals.append(("seconds to ready / `serve run`", "<=", 0.45, lambda name: table.ratio(name, run, of.start)))
    alone = own(of.start)
    goals.append(("seconds to ready without Ray", "<=", 8.0, lambda name: alone(name) if name == DLENV[1] else of.NAN))
    goals.append(("seconds to stop when idle", "<=", 5.0, own(of.stop)))
    lines = []
    for what, sign, bound, value in goals:
        values = [value(name) for name in DLENV]
        if not all(math.isnan(each) for each in values):
            lines.append([what, f"{sign} {bound:g}", *(_judged(each, sign, bound) for each in values)])
    if not lines:
        return ""
    return "#### Ratios\n\nBold where dlenv is within the bound that it has set itself.\n\n" + _markdown(
        ["", "bound", *DLENV], lines
    )


def _batches(services: list[Service], table: Table) -> str:
    rows = []
    for name in (service.name for service in services):
        times = _both(*(table.median(name, of.batch_latency(which)) for which in ("p50", "p99")))
        figures = (_whole(table.median(name, of.batch_rate)), _hundredths(table.median(name, of.of_bare)))
        rows.append([name, *figures, times, _whole(table.median(name, of.batch_cpu))])
    titles = ["service", "images/s", "/ bare loop", "p50 / p99", "CPU µs an image"]
    head = f"#### {MAX_BATCH} images a request, {BATCH_CONNECTIONS} connections"
    return f"{head}\n\nThe bare loop ran just before each, beside the idle service.\n\n" + _markdown(titles, rows)


def _overload(services: list[Service], table: Table) -> str:
    rows = []
    for name in (service.name for service in services):
        for size in (1, MAX_BATCH):
            for times in OVERLOADS:
                latencies = (table.median(name, of.overload_latency(size, times, each)) for each in ("p50", "p99"))
                rows.append(
                    [
                        name,
                        str(size),
                        _whole(table.median(name, of.peak(size))),
                        str(times),
                        _tenths(table.median(name, of.reached(size, times))),
                        _hundredths(table.median(name, of.goodput(size, times))),
                        _both(*latencies),
                        _hundredths(table.median(name, of.rejection(size, times))),
                    ]
                )
    if not rows:
        return ""
    titles = ["service", "images a request", "peak requests/s", "times", "reached", "goodput / peak", "p50 / p99"]
    return f"#### Overload\n\n{OVERLOAD}\n\n" + _markdown([*titles, "CPU of a rejection / of an answer"], rows)


def _life(services: list[Service], table: Table) -> str:
    rows = []
    for name in (service.name for service in services):
        seconds = [_tenths(table.median(name, value)) for value in (of.start, of.stop)]
        memory = [_whole(table.median(name, value)) for value in (lambda each: each.memory, lambda each: each.after)]
        rows.append([name, *seconds, *memory])
    titles = ["service", "ready in s", "stopped in s", "MiB when ready", "MiB after the loads"]
    return f"#### Start, stop and memory\n\n{LIFE}\n\n" + _markdown(titles, rows)


def _problems(turns: list[Turn]) -> str:
    found = []
    for turn in turns:
        if turn.problem:
            found.append(f"- {turn.service}, round {turn.round}: {' '.join(turn.problem.split())}")
        for load, figures in turn.figures():
            found += [f"- {turn.service}, round {turn.round}, {load}: {why}" for why in figures.result.problems()]
    results = [figures.result for turn in turns for _, figures in turn.figures()]
    right, wrong = sum(each.answered for each in results), sum(each.wrong for each in results)
    first = f"#### Problems\n\n{right:,} answers were right and {wrong:,} wrong."
    return "\n\n".join([first, *(["\n".join(found)] if found else [])])


def _markdown(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _judged(value: float, sign: str, bound: float) -> str:
    met = value >= bound if sign == ">=" else value <= bound
    return f"**{_hundredths(value)}**" if met else _hundredths(value)


def _both(*seconds: float) -> str:
    return " / ".join(map(_milliseconds, seconds))


def _milliseconds(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{seconds * 1000:.2f}" if seconds < 0.01 else f"{seconds * 1000:,.0f}"


def _whole(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.0f}"


def _tenths(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"


def _hundredths(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
