"""A service that is asked for several times what it can do, for a long time: what it still does must not fade.

    python tests/chaos/overload.py [--minutes 10] [--times 5] [--fronts 0]

64 images a request, as bytes: the load generator has a core of its own and brings five times the peak with ease, which
it does not with single images. The peak is measured by the same program first, with 32 requests in flight. Prints a
Markdown table, one line a minute; the exit code is 1 where the second half of the time is worse than the first.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("service", "fakes")]

from serving import publish
from soak import ROOM, held, serve

ROWS = 64
IN_FLIGHT = 32
CONNECTIONS = 256  # at most, in the open loop
# The second half may be this much worse: other work on the machine comes and goes.
GOODPUT, LATENCY = 0.9, 1.5


def bench(url: str, *words: str) -> dict[str, Any]:
    """One measurement by ``dlenv bench``, which runs on the last core where there are several."""
    cores = sorted(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "dlenv", "bench", url, "--model", "digits", "--rows", str(ROWS), "--tool", "own"]
    done = subprocess.run(
        [*command, *words, "--json"], stdout=subprocess.PIPE, preexec_fn=lambda: os.sched_setaffinity(0, cores[-1:])
    )
    (result,) = json.loads(done.stdout)["measurements"]
    return dict(result)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--times", type=float, default=5.0)
    parser.add_argument("--fronts", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "models")
        publish(root, "points", "mlp", input_shape=[2], classes=3, hidden=[8])
        publish(root, "digits", "lenet")
        process, url, _ = serve(root, options.fronts)
        cores = sorted(os.sched_getaffinity(0))
        service = psutil.Process(process.pid)
        for each in (service, *service.children(recursive=True)):
            for thread in each.threads():
                os.sched_setaffinity(thread.id, cores[:-1] or cores)
        try:
            peak = bench(url, "--connections", str(IN_FLIGHT), "--duration", "10")["rate"]
            offered = f"{options.times * peak:.0f}"
            print(f"peak {peak:.0f} requests/s of {ROWS} images, offered {offered}; {options.fronts} fronts\n")
            print("| minute | goodput / peak | p50, ms | p99, ms | told to come back | wrong | failed | memory, MiB |")
            print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
            minutes = []
            for minute in range(1, options.minutes + 1):
                it = bench(url, "--rate", offered, "--connections", str(CONNECTIONS), "--duration", "60")
                it["memory"] = held(service)["memory, MiB"]
                minutes.append(it)
                failed, latency = sum(it["failed"].values()), it["latency"]
                print(
                    f"| {minute} | {it['rate'] / peak:.2f} | {latency['p50'] * 1e3:.0f} | {latency['p99'] * 1e3:.0f} "
                    f"| {it['rejected']} | {it['wrong']} | {failed} | {it['memory']:.0f} |",
                    flush=True,
                )
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)

    def halves(value: Any) -> tuple[float, float]:
        values = [value(each) for each in minutes]
        middle = len(values) // 2
        return statistics.median(values[:middle] or values), statistics.median(values[middle:])

    rates, waits, memory = (
        halves(value) for value in (lambda it: it["rate"], lambda it: it["latency"]["p99"], lambda it: it["memory"])
    )
    problems = (
        [f"{sum(it['wrong'] for it in minutes)} answers were wrong"] if any(it["wrong"] for it in minutes) else []
    )
    if rates[1] < GOODPUT * rates[0]:
        problems.append(f"goodput fell from {rates[0]:.0f} to {rates[1]:.0f} requests/s")
    if waits[1] > LATENCY * waits[0]:
        problems.append(f"p99 rose from {waits[0] * 1e3:.0f} to {waits[1] * 1e3:.0f} ms")
    if memory[1] > memory[0] + ROOM["memory, MiB"]:
        problems.append(f"memory rose from {memory[0]:.0f} to {memory[1]:.0f} MiB")
    if code:
        problems.append(f"the service ended with {code}")
    print(f"\n{'; '.join(problems) or 'nothing fades'}")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
