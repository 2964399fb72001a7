"""How large the weights should be at the start: too small, too large, Xavier, Kaiming."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

from dlenv_models import gradients, zoo
from dlenv_models.data import Dataset, load
from dlenv_models.evaluation import preprocess
from dlenv_models.experiments.experiment import Column, Experiment, Outcome, Value

DEPTH, WIDTH = 10, 64
STEPS, LR = 100, 0.03  # of plain gradient descent on the whole training split
STARTS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "normal, 0.01": lambda weights: nn.init.normal_(weights, std=0.01),
    "Xavier": nn.init.xavier_uniform_,
    "Kaiming": lambda weights: nn.init.kaiming_uniform_(weights, nonlinearity="relu"),
    "normal, 1": lambda weights: nn.init.normal_(weights, std=1.0),
}


def run(seed: int) -> Outcome:
    """Ten hidden ReLU layers on real digits: activations, gradients, and whether gradient descent gets anywhere."""
    dataset = load("digits")
    spreads: dict[str, list[float]] = {}
    rows: list[list[Value]] = []
    for start, fill in STARTS.items():
        module, inputs = _fresh(dataset, fill, seed)
        spreads[start] = _spreads(module, inputs)
        losses = _descend(module, inputs, dataset.train.labels)
        rows.append([start, spreads[start][0], spreads[start][-1], losses[0], losses[-1]])
    small, _, kaiming, large = rows
    return Outcome(
        columns=[
            Column("weights at the start"),
            *(Column(title, ".2e") for title in ("deviation after layer 1", f"deviation after layer {DEPTH}")),
            *(Column(title, ".3g") for title in ("loss at the start", f"loss after {STEPS} steps")),
        ],
        rows=rows,
        found=f"through {DEPTH} ReLU layers the signal fades to {small[2]:.0e} with weights of deviation 0.01 and "
        f"grows to {large[2]:.0e} with deviation 1, and neither is trained by {STEPS} steps (losses {small[4]:.3g} and "
        f"{large[4]:.3g}); with Kaiming's it stays at {kaiming[2]:.1g}, and the loss falls to {kaiming[4]:.2g}",
        draw=lambda figure: _draw(figure, spreads),
    )


def _fresh(dataset: Dataset, fill: Callable[[torch.Tensor], torch.Tensor], seed: int) -> tuple[nn.Module, torch.Tensor]:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        module = zoo.build("mlp", input_shape=list(dataset.row_shape), classes=10, hidden=[WIDTH] * DEPTH)
        for part in module.modules():
            if isinstance(part, nn.Linear):
                fill(part.weight)
                nn.init.zeros_(part.bias)
    return module, preprocess(dataset.preprocessing, dataset.row_shape)(dataset.train.inputs)


def _spreads(module: nn.Module, inputs: torch.Tensor) -> list[float]:
    """The standard deviation of what each hidden layer gives."""
    found = []
    with torch.inference_mode():
        for name, part in module.named_children():
            inputs = part(inputs)
            if name.endswith("_activation"):
                found.append(float(inputs.std()))
    return found


def _descend(module: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """The losses of plain gradient descent; gradients longer than 1 are clipped, or the last start ends at once."""
    losses = []
    optimizer = torch.optim.SGD(module.parameters(), lr=LR)
    for _ in range(STEPS + 1):
        loss = F.cross_entropy(module(inputs), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        gradients.limit(module, clip=1.0)
        optimizer.step()
    return losses


def _draw(figure: Figure, spreads: dict[str, list[float]]) -> None:
    axes = figure.subplots()
    for start, values in spreads.items():
        axes.plot(range(1, DEPTH + 1), [max(value, 1e-20) for value in values], "o-", label=start)
    axes.set(xlabel="hidden layer", ylabel="standard deviation of its output", yscale="log")
    axes.legend()


EXPERIMENT = Experiment(
    name="initialisation",
    question="How large should the weights of a deep network be at the start?",
    chapter='d2l 5.4.2, "Parameter Initialization"',
    course_says="Activations and gradients are products of many matrices, so weights that are too small make them "
    "vanish and weights that are too large make them explode. Xavier's choice keeps their variance from layer to "
    "layer; Kaiming He's does so for ReLU.",
    run=run,
)
