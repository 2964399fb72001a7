"""The plot of a run: requests/s of every service, one panel for each number of connections."""

from __future__ import annotations

import math
from pathlib import Path

import turns as of
from loads import CONNECTIONS
from turns import Table, Turn


def plot(turns: list[Turn], path: Path) -> None:
    """Write the PNG; services in the order of the turns, dlenv's in green."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    table = Table(turns)
    names = list(dict.fromkeys(turn.service for turn in turns if turn.closed))
    figure, panels = plt.subplots(1, len(CONNECTIONS), figsize=(11, 0.42 * len(names) + 1.3), sharey=True)
    for panel, connections in zip(panels, CONNECTIONS, strict=True):
        rates = [table.median(name, of.rate(connections)) for name in names]
        shown = [0.0 if math.isnan(rate) else rate for rate in rates]
        bars = panel.barh(names, shown, color=["#4f9d2f" if "dlenv" in name else "#9aa5b1" for name in names])
        panel.bar_label(bars, [f"{rate:,.0f}" for rate in shown], padding=3, fontsize=8)
        panel.set_title(f"{connections} connection{'s' * (connections > 1)}", fontsize=10)
        panel.set_xlim(0, 1.25 * max([*shown, 1]))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.supxlabel("requests/s, one image of 28 x 28 a request, one thread for the model", fontsize=9)
    figure.tight_layout()
    scratch = path.with_suffix(".tmp.png")
    figure.savefig(scratch, dpi=150)
    scratch.replace(path)
