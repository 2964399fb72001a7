"""The memory of a service over many requests.

    python tests/bench/steady.py [--servers "dlenv ray,dlenv local"] [--requests 1000000]

Asks each service for one image a request over 32 connections, every answer checked, and prints a Markdown table of what
all of its processes hold (proportional set size) after each tenth of the requests.
"""

from __future__ import annotations

import argparse

from lifecycle import running
from loads import Load, digits
from peers.lenet import Classifier
from services import SERVICES, Service

STEPS = 10
CONNECTIONS = 32
SECONDS = 5.0  # of a load


def memory(service: Service, images: int) -> tuple[int, list[float]]:
    """How many requests were answered, and the MiB that the service held before them and after each tenth."""
    chosen = digits(Classifier(service.engine))
    with running(service) as started:
        load = Load(started, chosen, SECONDS)
        started.wait_ready(load.right)
        held, answered = [started.memory_mib()], 0
        for step in range(1, STEPS + 1):
            while answered < images * step // STEPS:
                result = load.closed(1, CONNECTIONS).result
                assert not result.wrong
                assert not result.failed
                answered += result.answered
            held.append(started.memory_mib())
        return answered, held


def main() -> None:
    names = [service.name for service in SERVICES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", default="dlenv ray,dlenv local,dlenv fronts", help=f"of: {', '.join(names)}")
    parser.add_argument("--requests", type=int, default=1_000_000)
    options = parser.parse_args()
    wanted = [name.strip() for name in options.servers.split(",")]
    if unknown := [name for name in wanted if name not in names]:
        parser.error(f"there is no server {unknown[0]!r}; there is {', '.join(names)}")
    print("| service | requests | MiB before | " + " | ".join(f"{10 * step} %" for step in range(1, STEPS + 1)) + " |")
    print("| --- " * (STEPS + 3) + "|")
    for service in SERVICES:
        if service.name in wanted:
            answered, held = memory(service, options.requests)
            cells = " | ".join(f"{each:,.0f}" for each in held)
            print(f"| {service.name} | {answered:,} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
