"""Vanishing gradients: how long the gradient of each layer is with sigmoids and with ReLUs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from dlenv_models import gradients, zoo
from dlenv_models.data import Dataset, load
from dlenv_models.evaluation import measure, preprocess
from dlenv_models.experiments.experiment import Column, Experiment, Outcome, Value
from dlenv_models.training import Options, train

DEPTH, WIDTH = 10, 64
ACTIVATIONS = {"sigmoid": "xavier", "tanh": "xavier", "relu": "kaiming"}  # each with the initialisation meant for it
EPOCHS = 10


def run(seed: int) -> Outcome:
    """Ten hidden layers on real digits: gradients with fresh weights, and accuracy after ten epochs."""
    dataset = load("digits")
    norms = {name: _norms(dataset, name, seed) for name in ACTIVATIONS}
    layers = list(norms["relu"])
    rows: list[list[Value]] = [[layer, *(norms[name][layer] for name in ACTIVATIONS)] for layer in layers]
    reached = {name: _accuracy(dataset, name, seed) for name in ACTIVATIONS}
    first, last = layers[0], layers[-2]
    ratios = {name: norms[name][first] / norms[name][last] for name in ACTIVATIONS}
    return Outcome(
        columns=[Column("gradient of"), *(Column(name, ".1e") for name in ACTIVATIONS)],
        rows=rows,
        found=f"from the last hidden layer to the first the gradient changes by the factor "
        f"{ratios['sigmoid']:.0e} with sigmoids and {ratios['relu']:.1g} with ReLUs; after {EPOCHS} epochs the "
        "networks call "
        + ", ".join(f"{value:.1%} ({name})" for name, value in reached.items())
        + " of the held-out digits right",
        draw=lambda figure: _draw(figure, layers, norms),
    )


def _arguments(name: str) -> dict[str, object]:
    return {"hidden": [WIDTH] * DEPTH, "activation": name, "init": ACTIVATIONS[name]}


def _norms(dataset: Dataset, name: str, seed: int) -> dict[str, float]:
    """The gradient on the whole training split, before the first step."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        module = zoo.build("mlp", input_shape=list(dataset.row_shape), classes=10, **_arguments(name))
    inputs = preprocess(dataset.preprocessing, dataset.row_shape)(dataset.train.inputs)
    torch.autograd.backward(F.cross_entropy(module(inputs), dataset.train.labels))
    return gradients.norms(module)


def _accuracy(dataset: Dataset, name: str, seed: int) -> float:
    trained = train("mlp", dataset, Options(epochs=EPOCHS, lr=0.003, seed=seed), _arguments(name))
    return measure(trained.module, trained.preprocessing, dataset.test, 10).test_accuracy


def _draw(figure: Figure, layers: Sequence[str], norms: dict[str, dict[str, float]]) -> None:
    axes = figure.subplots()
    for name, of_layer in norms.items():
        axes.plot(layers, [of_layer[layer] for layer in layers], "o-", label=f"{name}, {ACTIVATIONS[name]}")
    axes.set(ylabel="norm of the gradient before the first step", yscale="log")
    axes.tick_params(axis="x", rotation=45)
    axes.legend()


EXPERIMENT = Experiment(
    name="vanishing-gradients",
    question="What becomes of the gradient on its way through many layers, with sigmoids and with ReLUs?",
    chapter='d2l 5.4.1, "Vanishing and Exploding Gradients"',
    course_says="The sigmoid's derivative is at most 1/4 and vanishes for large and small inputs; through many layers "
    "the product of them all but disappears. ReLU's is 1 wherever it is active, which made deep networks trainable.",
    run=run,
)
