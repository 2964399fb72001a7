"""A picture of measurements: throughput against latency, and how the latencies are spread."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dlenv.bench.result import Result


def draw(series: Sequence[tuple[int, Sequence[tuple[str, Result]]]], title: str, path: Path) -> None:
    """Write a PNG to ``path``; each series has the rows of its requests, and results with what stands beside them.

    Results without latencies are left out. Raises ``OSError`` where it can't be written.
    """
    figure = Figure(figsize=(12, 5), layout="constrained")  # inches; pyplot would keep global state
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    against, spread = figure.subplots(1, 2)
    for rows, results in series:
        name = f"{rows} row{'s' * (rows != 1)} a request"
        known = [(label, result, result.latency) for label, result in results if result.latency is not None]
        rates = [result.rate * rows for _, result, _ in known]
        (line,) = against.plot(rates, [latency.p50 * 1000 for _, _, latency in known], "o-", label=f"{name}, p50")
        against.plot(
            rates, [latency.p99 * 1000 for _, _, latency in known], "o--", color=line.get_color(), label=f"{name}, p99"
        )
        for label, result, latency in known:
            against.annotate(label, (result.rate * rows, latency.p50 * 1000), textcoords="offset points", xytext=(4, 4))
            seen, ends, shares = 0, [], []
            for _, end, count in result.histogram.filled():
                seen += count
                ends.append(min(end, latency.max) * 1000)
                shares.append(seen / len(result.histogram))
            spread.plot(ends, shares, drawstyle="steps-post", label=f"{name}, {label}")
    against.set(xlabel="rows answered per second", ylabel="latency (ms)", yscale="log", xmargin=0.2)
    spread.set(xlabel="latency (ms)", ylabel="share of the answers", xscale="log", ylim=(0, 1.02))
    for axes in (against, spread):
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(fontsize="small")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(beside, dpi=120, format="png")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
