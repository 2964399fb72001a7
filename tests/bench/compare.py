"""dlenv beside every other model server: the same model, the same work, in turn, every answer checked.

    make bench
    python tests/bench/compare.py [--servers "dlenv ray,mosec"] [--rounds 3] [--duration 5] [--out FILE.md] [--plot PNG]

Builds an environment for each peer below `.bench/` (pins: `tests/bench/peers/*.txt`; PyTorch is the one of the Python
that runs this). In each round every service is started, asked and stopped, one after the other, so that each has the
machine to itself, a change of the machine's speed meets all of them, and starting and stopping are measured too.
Writes a Markdown section (`make bench`: at the top of tests/bench/RESULTS.md) and a plot. A full run takes about
forty minutes on two cores. Ctrl-C stops everything that was started.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import types
from pathlib import Path

import psutil
from lifecycle import running
from loads import BATCH_CONNECTIONS, CONNECTIONS, Images, Load, bare, digits
from peers.lenet import MAX_BATCH, Classifier
from plot import plot
from report import Conditions, section
from services import SERVICES, Failed, Service, install
from turns import Turn

from dlenv.errors import DlenvError


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def turn(service: Service, number: int, images: list[Images], classify: Classifier, duration: float) -> Turn:
    """One round of one service; a failure is a result too."""
    measured = Turn(service.name, number)
    try:
        with running(service) as started:
            load = Load(started, images, duration)
            measured.start = started.wait_ready(load.right)
            if not load.right(MAX_BATCH):
                raise Failed(f"its answer to {MAX_BATCH} images is not the right one")
            measured.memory = started.memory_mib()
            for connections in CONNECTIONS:
                measured.closed[connections] = load.closed(1, connections)
            measured.bare = bare(classify, images, MAX_BATCH, duration / 3)
            measured.batch = load.closed(MAX_BATCH, BATCH_CONNECTIONS)
            if service.overload:
                measured.overload = {rows: load.overload(rows) for rows in (1, MAX_BATCH)}
            load.settle()
            measured.after = started.memory_mib()
            measured.stop = started.stop()
    except (Failed, DlenvError) as error:
        measured.problem = str(error)
    return measured


def summary(measured: Turn) -> str:
    if measured.problem:
        return f"FAILED: {measured.problem}"
    rates = " / ".join(f"{measured.closed[each].result.rate:,.0f}" for each in CONNECTIONS)
    return f"{rates} requests/s, ready in {measured.start:.1f} s"


def put(text: str, path: Path) -> None:
    """Add a section before the others of the file, or write a new file."""
    there = path.read_text(encoding="utf-8") if path.exists() else ""
    head, mark, rest = there.partition("## ")
    scratch = path.with_suffix(".tmp")
    scratch.write_text(f"{head}{text}\n{mark}{rest}".rstrip() + "\n", encoding="utf-8")
    scratch.replace(path)


def tell(text: str, out: Path | None) -> None:
    """Put the section into this file, or print it where there is none."""
    if out is None:
        print(text)
    else:
        put(text, out)


def main() -> None:
    names = [service.name for service in SERVICES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", default=",".join(names), help=f"of: {', '.join(names)} [default: all]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=5.0, help="seconds of each load")
    parser.add_argument("--out", type=Path, help="Markdown file, whose newest section this becomes [default: stdout]")
    parser.add_argument("--plot", type=Path, help="PNG file")
    options = parser.parse_args()
    wanted = [name.strip() for name in options.servers.split(",")]
    if unknown := [name for name in wanted if name not in names]:
        parser.error(f"there is no server {unknown[0]!r}; there is {', '.join(names)}")
    services = [service for service in SERVICES if service.name in wanted]
    # Both, so that services are stopped on SIGTERM as on Ctrl-C; and because a shell has its background jobs, and all
    # that these start, ignore SIGINT, by which the services are stopped. What we start gets the default back.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, _interrupt)

    turns: list[Turn] = []
    installed = []
    for service in services:
        try:
            install(service)
            installed.append(service)
        except Failed as error:
            say(f"{service.name} can't be installed: {error}")
            turns.append(Turn(service.name, 1, problem=f"can't be installed: {error}"))
    classifiers = {engine: Classifier(engine) for engine in sorted({service.engine for service in services})}
    images = digits(next(iter(classifiers.values())))
    others = psutil.cpu_percent(3.0)
    loops: dict[str, list[tuple[float, float]]] = {engine: [] for engine in classifiers}
    for number in range(1, options.rounds + 1):
        for engine, classify in classifiers.items():
            single, batched = (bare(classify, images, batch, options.duration / 3) for batch in (1, MAX_BATCH))
            loops[engine].append((single, batched))
        # Each round begins with another one, so that none always comes after the same.
        shift = (number - 1) % len(installed) if installed else 0
        for service in installed[shift:] + installed[:shift]:
            measured = turn(service, number, images, classifiers[service.engine], options.duration)
            say(f"round {number}, {service.name}: {summary(measured)}")
            turns.append(measured)
    conditions = Conditions(
        rounds=options.rounds,
        duration=options.duration,
        others=others,
        loops={
            engine: (statistics.median(single for single, _ in each), statistics.median(batched for _, batched in each))
            for engine, each in loops.items()
        },
    )
    text = section(services, turns, conditions)
    if options.plot and any(each.closed for each in turns):
        plot(turns, options.plot)
    tell(text, options.out)


def _interrupt(number: int, frame: types.FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
