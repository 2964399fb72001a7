"""The experiment of the course notes: a linear model can't separate the arms of a spiral, one ReLU layer can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure

from dlenv_models.data import Dataset, load
from dlenv_models.evaluation import measure
from dlenv_models.experiments.experiment import Column, Experiment, Outcome, Value
from dlenv_models.plots import draw_regions
from dlenv_models.training import Trained, recipe, train

MODELS: Sequence[tuple[str, str, dict[str, Any]]] = (
    ("linear", "linear", {}),
    ("100 hidden units, no activation", "mlp", {"hidden": [100], "activation": "none"}),
    ("100 hidden units, ReLU", "mlp", {"hidden": [100], "activation": "relu"}),
)


def run(seed: int) -> Outcome:
    """Train each on 1,800 points and measure it on 999 others."""
    dataset = load("spiral", seed=seed)
    models = {
        title: train(name, dataset, replace(recipe(name, dataset), seed=seed), arguments)
        for title, name, arguments in MODELS
    }
    rows: list[list[Value]] = []
    for title, trained in models.items():
        held = measure(trained.module, trained.preprocessing, dataset.test, len(dataset.classes))
        count = sum(weights.numel() for weights in trained.module.parameters())
        rows.append([title, count, trained.history[-1].train_accuracy, held.test_accuracy])
    return Outcome(
        columns=[
            Column("model"),
            Column("parameters"),
            Column("training accuracy", ".2%"),
            Column("held-out accuracy", ".2%"),
        ],
        rows=rows,
        found=f"the linear model calls {rows[0][-1]:.1%} of the held-out points right; a hidden layer of 100 units "
        f"makes it {rows[1][-1]:.1%} without an activation, and {rows[2][-1]:.1%} with ReLU",
        draw=lambda figure: _draw(figure, dataset, models),
    )


def _draw(figure: Figure, dataset: Dataset, models: dict[str, Trained]) -> None:
    for axes, (title, trained) in zip(figure.subplots(1, len(models)), models.items(), strict=True):
        draw_regions(axes, trained.module, trained.preprocessing, dataset)
        axes.set(title=title, aspect="equal")


EXPERIMENT = Experiment(
    name="spiral",
    question="Can a linear model separate the arms of a spiral, and what does a hidden layer change?",
    chapter='d2l 5.1, "Multilayer Perceptrons"',
    course_says="A linear model draws straight lines only. Hidden layers without a nonlinearity come to a linear model "
    "again; with one, such as ReLU, even a single hidden layer can learn any function.",
    run=run,
)
