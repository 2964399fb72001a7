"""What one service gave in one round, and medians and ratios over the rounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from loads import Figures, Overload
from peers.lenet import MAX_BATCH

NAN = float("nan")


@dataclass
class Turn:
    """One service in one round; what was not measured is NaN, None or missing."""

    service: str
    round: int
    start: float = NAN  # seconds from its start to its first right answer
    stop: float = NAN  # seconds from Ctrl-C to the end of its first process
    memory: float = NAN  # MiB, when ready
    after: float = NAN  # MiB, after all loads
    closed: dict[int, Figures] = field(default_factory=dict)  # one image a request, by connections
    batch: Figures | None = None  # 64 images a request
    bare: float = NAN  # images/s of the bare loop just before that
    overload: dict[int, Overload] = field(default_factory=dict)  # by images a request
    problem: str | None = None

    def figures(self) -> Iterable[tuple[str, Figures]]:
        """Every load that it met, and what it was."""
        for connections, figures in self.closed.items():
            yield f"{connections} connections", figures
        if self.batch:
            yield images(MAX_BATCH), self.batch
        for rows, overload in self.overload.items():
            yield f"peak on half of the cores, {images(rows)}", overload.peak
            for times, figures in overload.loads.items():
                yield f"{times} times its capacity, {images(rows)}", figures


# A figure of a turn; may raise KeyError or AttributeError where the turn did not come to it.
Value = Callable[[Turn], float]


class Table:
    """The turns by service and round."""

    def __init__(self, turns: list[Turn]) -> None:
        self._turns = {(turn.service, turn.round): turn for turn in turns}
        self._rounds = sorted({turn.round for turn in turns})

    def median(self, service: str, value: Value) -> float:
        """Over the rounds; NaN where none has it."""
        return _median(self._get(service, each, value) for each in self._rounds)

    def ratio(self, over: str, under: str, value: Value) -> float:
        """The median of each round's ratio, which a change of the machine's speed between rounds does not move."""
        return _median(self._get(over, each, value) / (self._get(under, each, value) or NAN) for each in self._rounds)

    def _get(self, service: str, number: int, value: Value) -> float:
        try:
            return value(self._turns[service, number])
        except (AttributeError, KeyError):
            return NAN


def _median(values: Iterable[float]) -> float:
    there = [value for value in values if not math.isnan(value)]
    return statistics.median(there) if there else NAN


def rate(connections: int) -> Value:
    return lambda turn: turn.closed[connections].result.rate


def latency(connections: int, name: str) -> Value:
    return lambda turn: getattr(turn.closed[connections].result.latency, name)


def tail(connections: int) -> Value:
    return lambda turn: latency(connections, "p99")(turn) / latency(connections, "p50")(turn)


def cpu(connections: int) -> Value:
    return lambda turn: turn.closed[connections].cpu_us


def batch_rate(turn: Turn) -> float:
    """Images per second with 64 of them a request."""
    return turn.batch.result.rate * MAX_BATCH if turn.batch else NAN


def batch_cpu(turn: Turn) -> float:
    """Microseconds an image."""
    return turn.batch.cpu_us / MAX_BATCH if turn.batch else NAN


def batch_latency(name: str) -> Value:
    return lambda turn: getattr(turn.batch.result.latency, name) if turn.batch else NAN


def of_bare(turn: Turn) -> float:
    return batch_rate(turn) / turn.bare


def peak(rows: int) -> Value:
    return lambda turn: turn.overload[rows].peak.result.rate


def goodput(rows: int, times: int) -> Value:
    return lambda turn: turn.overload[rows].goodput(times)


def reached(rows: int, times: int) -> Value:
    return lambda turn: turn.overload[rows].reached(times)


def rejection(rows: int, times: int) -> Value:
    return lambda turn: turn.overload[rows].rejection_cost(times)


def overload_latency(rows: int, times: int, name: str) -> Value:
    return lambda turn: getattr(turn.overload[rows].loads[times].result.latency, name)


def start(turn: Turn) -> float:
    return turn.start


def stop(turn: Turn) -> float:
    return turn.stop


def images(rows: int) -> str:
    return "one image a request" if rows == 1 else f"{rows} images a request"
