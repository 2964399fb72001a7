"""dlenv's training beside a bare PyTorch loop, Lightning and skorch: examples a second on the same data, in turn.

    make bench-training
    python tests/bench/training.py [--rounds 5] [--epochs 6] [--out FILE.md]

Each runs in a process of its own, in an environment with the frameworks' pinned versions (peers/training.txt) and
dlenv's own PyTorch; one thread; the first epoch of each process does not count. Writes a Markdown section.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
from pathlib import Path

import psutil
from compare import say, tell
from services import PEERS, Service, install, version

LOOPS = ("dlenv", "bare loop", "Lightning", "skorch")
MODELS = ("mlp", "lenet")
PEER = Service(
    name="training", what="", packages=("torch", "lightning", "skorch"), command=(), wire="", path="",
    requirements="training",
)  # fmt: skip


def once(who: str, model: str, epochs: int) -> tuple[float, float]:
    """Examples a second, the median of all epochs but the first; and the accuracy on held-out rows."""
    command = [PEER.python, PEERS / "training_loops.py", who, model, str(epochs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{who}, {model}: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["rates"]) == epochs, (who, found)
    return statistics.median(found["rates"][1:]), found["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path, help="Markdown file, whose newest section this becomes [default: stdout]")
    options = parser.parse_args()
    install(PEER)
    busy = psutil.cpu_percent(3.0)
    found: dict[tuple[str, str], list[tuple[float, float]]] = {(who, model): [] for who in LOOPS for model in MODELS}
    for number in range(options.rounds):
        for model in MODELS:
            for who in LOOPS[number % len(LOOPS) :] + LOOPS[: number % len(LOOPS)]:
                found[who, model].append(once(who, model, options.epochs))
                say(f"round {number + 1}, {model}, {who}: {found[who, model][-1][0]:,.0f} examples/s")
    versions = ", ".join(f"{package} {version(PEER, package)}" for package in PEER.packages)
    lines = [
        f"## Training, {datetime.datetime.now().astimezone().date()}",
        "",
        f"`make bench-training`: {options.rounds} rounds in turn, {options.epochs} epochs each, of which the first",
        f"does not count; one thread; {psutil.cpu_count()} cores, {busy:.0f} % busy before. {versions}. The ratio is",
        "the median of the rounds' ratios. All train the same module with Adam on the 3,500 rows of mnist5k, 64 a",
        "batch, and count loss and accuracy. dlenv asks PyTorch for its fused Adam, the others take its default one.",
        "",
        "| model | who | examples/s | of the bare loop's | accuracy on held-out rows |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for model in MODELS:
        for who in LOOPS:
            rates = [rate for rate, _ in found[who, model]]
            bare = [rate for rate, _ in found["bare loop", model]]
            ratio = statistics.median(rate / other for rate, other in zip(rates, bare, strict=True))
            accuracy = statistics.median(each for _, each in found[who, model])
            lines.append(f"| {model} | {who} | {statistics.median(rates):,.0f} | {ratio:.2f} | {accuracy:.1%} |")
    tell("\n".join(lines) + "\n", options.out)


if __name__ == "__main__":
    main()
