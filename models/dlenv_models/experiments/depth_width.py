"""Tall and thin against short and wide: networks of about as many parameters, but of different shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.figure import Figure

from dlenv_models.architectures import complete, parameters
from dlenv_models.data import load
from dlenv_models.evaluation import measure
from dlenv_models.experiments.experiment import Column, Experiment, Outcome, Value
from dlenv_models.training import Options, train

DEPTHS = (1, 2, 3, 4, 6, 8)
PARAMETERS = 90  # few enough that the shape matters on a spiral
SEEDS = 3
OPTIONS = Options(epochs=40)


def run(seed: int) -> Outcome:
    """Each shape three times on the spiral, with its widest layers that stay within the parameters."""
    dataset = load("spiral")
    rows: list[list[Value]] = []
    for depth in DEPTHS:
        width = _widest(depth)
        count = _parameters(depth, width)
        held = []
        for each in range(seed, seed + SEEDS):
            trained = train("mlp", dataset, replace(OPTIONS, seed=each), {"hidden": [width] * depth})
            metrics = measure(trained.module, trained.preprocessing, dataset.test, len(dataset.classes))
            held.append(metrics.test_accuracy)
        rows.append([depth, width, count, sum(held) / SEEDS, min(held), max(held)])
    best, wide, tall = max(rows, key=lambda row: row[3]), rows[0], rows[-1]
    return Outcome(
        columns=[
            *(Column("hidden layers"), Column("units in each"), Column("parameters")),
            *(Column("mean held-out accuracy", ".2%"), Column("worst of 3", ".2%"), Column("best of 3", ".2%")),
        ],
        rows=rows,
        found=f"with at most {PARAMETERS} parameters, {best[0]} x {best[1]} units are best ({best[3]:.1%}); one layer "
        f"of {wide[1]} comes to {wide[3]:.1%}, {tall[0]} of {tall[1]} to {tall[3]:.1%}",
        draw=lambda figure: _draw(figure, rows),
    )


def _widest(depth: int) -> int:
    width = 1
    while _parameters(depth, width + 1) <= PARAMETERS:
        width += 1
    return width


def _parameters(depth: int, width: int) -> int:
    return parameters("mlp", complete("mlp", {"input_shape": [2], "classes": 3, "hidden": [width] * depth}))


def _draw(figure: Figure, rows: Sequence[Sequence[Value]]) -> None:
    axes = figure.subplots()
    depths, means = [float(row[0]) for row in rows], [float(row[3]) for row in rows]
    lower = [mean - float(row[4]) for mean, row in zip(means, rows, strict=True)]
    upper = [float(row[5]) - mean for mean, row in zip(means, rows, strict=True)]
    axes.errorbar(depths, means, yerr=[lower, upper], fmt="o-", capsize=4)
    axes.set_xticks(depths, [f"{row[0]} x {row[1]}" for row in rows])
    axes.set(xlabel="hidden layers x units", ylabel="held-out accuracy (mean, worst and best of 3)")


EXPERIMENT = Experiment(
    name="depth-width",
    question="Is a tall and thin network better than a short and wide one of as many parameters?",
    chapter='d2l 5.1.1, "Hidden Layers" (universal approximators)',
    course_says="A single hidden layer can represent any function, given enough units, but that does not make it easy "
    "to learn: many functions can be approximated much more compactly by deeper networks than by wider ones.",
    run=run,
)
