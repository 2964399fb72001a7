"""Dropout on little data: what it costs on the training rows, and what it wins on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
from matplotlib.figure import Figure

from dlenv_models.data import Dataset, load
from dlenv_models.evaluation import measure
from dlenv_models.experiments.experiment import Column, Experiment, Outcome, Value
from dlenv_models.training import Options, train

DROPOUTS = (0.0, 0.2, 0.5, 0.8)
ROWS = 1000
SEEDS = 3
OPTIONS = Options(epochs=30, lr=0.001, schedule="constant")


def run(seed: int) -> Outcome:
    """The book's network, two hidden layers of 256 units, on 1,000 images of MNIST; three times for each dropout."""
    whole = load("mnist5k")
    random = np.random.RandomState(seed)
    dataset = replace(whole, train=whole.train.take(random.permutation(len(whole.train))[:ROWS]))
    rows = [_row(dataset, dropout, seed) for dropout in DROPOUTS]
    best = min(rows, key=lambda row: row[4])
    return Outcome(
        columns=[
            Column("dropout", "g"),
            *(Column("training loss", ".4f"), Column("training accuracy", ".2%")),
            *(Column("held-out accuracy", ".2%"), Column("held-out loss", ".4f")),
        ],
        rows=rows,
        found=f"without dropout the held-out loss is {rows[0][4]:.3f}; dropout {best[0]:g} brings it to {best[4]:.3f}, "
        f"and the accuracy from {rows[0][3]:.1%} to {best[3]:.1%}",
        draw=lambda figure: _draw(figure, rows),
    )


def _row(dataset: Dataset, dropout: float, seed: int) -> list[Value]:
    measured = []
    for each in range(seed, seed + SEEDS):
        trained = train("mlp", dataset, replace(OPTIONS, seed=each), {"hidden": [256, 256], "dropout": dropout})
        on_train, held = (measure(trained.module, trained.preprocessing, s, 10) for s in (dataset.train, dataset.test))
        measured.append((on_train.test_loss, on_train.test_accuracy, held.test_accuracy, held.test_loss))
    return [dropout, *(fmean(values) for values in zip(*measured, strict=True))]


def _draw(figure: Figure, rows: Sequence[Sequence[Value]]) -> None:
    axes = figure.subplots()
    for column, label in ((1, "training"), (4, "held out")):
        axes.plot([float(row[0]) for row in rows], [float(row[column]) for row in rows], "o-", label=label)
    axes.set(xlabel="dropout", ylabel="loss", yscale="log")
    axes.legend()


EXPERIMENT = Experiment(
    name="dropout",
    question="Does leaving out hidden units at random while training help on rows that were not trained on?",
    chapter='d2l 5.6, "Dropout" (Srivastava et al., 2014)',
    course_says="Dropout puts noise into the hidden layers while training, so that no unit can rely on certain others: "
    "another tool against overfitting, often used together with weight decay.",
    run=run,
)
