"""How `dlenv serve` grows with its replicas: images a second with 1, 2, ... of them on this machine, in turn.

    make bench-replicas
    python tests/bench/replicas.py [--replicas 1,2] [--rounds 3] [--duration 8] [--out FILE.md]

64 images a request, so that the model is what takes the time, and the load generator a tenth of it. On one machine more
replicas are more cores (one thread each); on a cluster, more nodes. Every answer is checked. Writes a Markdown section.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
from pathlib import Path

import psutil
from compare import say, tell
from lifecycle import running
from loads import BATCH_CONNECTIONS, Load, bare, digits
from msgspec.structs import replace
from peers.lenet import MAX_BATCH, Classifier
from services import SERVICES, version

RAY = next(service for service in SERVICES if service.name == "dlenv ray")


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", default=",".join(map(str, range(1, min(cores, 4) + 1))))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=8.0, help="seconds of each load")
    parser.add_argument("--out", type=Path, help="Markdown file, whose newest section this becomes [default: stdout]")
    options = parser.parse_args()
    counts = [int(count) for count in options.replicas.split(",")]
    classify = Classifier("eager")
    images = digits(classify)
    busy = psutil.cpu_percent(3.0)
    rates: dict[int, list[float]] = {count: [] for count in counts}
    costs: dict[int, list[float]] = {count: [] for count in counts}
    loops = []
    for number in range(options.rounds):
        loops.append(bare(classify, images, MAX_BATCH, options.duration / 3))
        for count in counts[number % len(counts) :] + counts[: number % len(counts)]:
            service = replace(RAY, name=f"{count} replicas", command=(*RAY.command, "--replicas", str(count)))
            with running(service) as started:
                load = Load(started, images, options.duration)
                started.wait_ready(load.right)
                found = load.closed(MAX_BATCH, BATCH_CONNECTIONS * count)
                started.stop()
            if problems := found.result.problems():
                say(f"round {number + 1}, {count} replicas: not valid: {'; '.join(problems)}")
            rates[count].append(found.result.rate * MAX_BATCH)
            costs[count].append(found.cpu_us / 1e3)
            say(f"round {number + 1}, {count} replicas: {rates[count][-1]:,.0f} images/s")
    lines = [
        f"## Replicas, {datetime.datetime.now().astimezone().date()}",
        "",
        f"`make bench-replicas`: {options.rounds} rounds in turn, {MAX_BATCH} images a request, {BATCH_CONNECTIONS}",
        f"connections for each replica; {cores} cores, {busy:.0f} % busy before; the load generator runs on them, too.",
        f"dlenv {version(RAY, 'dlenv')}, torch {version(RAY, 'torch')}, ray {version(RAY, 'ray')}.",
        f"A bare loop on one core: {statistics.median(loops):,.0f} images/s.",
        "",
        "| replicas | images/s | of one replica's (median of the rounds) | CPU per request, ms |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for count in counts:
        ratio = statistics.median(rate / one for rate, one in zip(rates[count], rates[counts[0]], strict=True))
        cost = statistics.median(costs[count])
        lines.append(f"| {count} | {statistics.median(rates[count]):,.0f} | {ratio:.2f} | {cost:.1f} |")
    tell("\n".join(lines) + "\n", options.out)


if __name__ == "__main__":
    main()
