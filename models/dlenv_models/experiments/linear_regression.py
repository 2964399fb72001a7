"""Linear regression on real data: minibatch gradient descent against the closed form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure

from dlenv_models.experiments.experiment import Column, Experiment, Outcome, Value

EPOCHS = 300
BATCH = 32
LR = 0.2
SHOWN = (0, 1, 3, 10, 30, 100, 300)  # epochs


def run(seed: int) -> Outcome:
    """Predict how diabetes went on after a year, from ten measurements of 442 people (scikit-learn's data)."""
    inputs, targets = _diabetes()
    solution = torch.linalg.lstsq(inputs, targets).solution
    best = _loss(inputs, targets, solution)
    random = torch.Generator().manual_seed(seed)
    weights = torch.zeros_like(solution)
    rows: list[list[Value]] = []
    for epoch in range(EPOCHS + 1):
        if epoch in SHOWN:
            distance = float((weights - solution).norm() / solution.norm())
            rows.append([epoch, _loss(inputs, targets, weights), distance])
        lr = LR * (1 - epoch / (EPOCHS + 1))  # falling, or the noise of the batches keeps it away from the minimum
        for batch in torch.split(torch.randperm(len(targets), generator=random), BATCH):
            error = inputs[batch] @ weights - targets[batch]
            weights -= lr * inputs[batch].T @ error / len(batch)  # the gradient of half the mean squared error
    rows.append(["closed form", best, 0.0])
    return Outcome(
        columns=[Column("epoch"), Column("loss", ".4f"), Column("distance from the closed form", ".2%")],
        rows=rows,
        found=f"after {EPOCHS} epochs the loss is {rows[-2][1]:.4f}, where the closed form has {best:.4f}, and the "
        f"weights differ by {rows[-2][2]:.1%}: the loss is there long before the weights are, since some of the "
        "measurements say nearly the same",
        draw=lambda figure: _draw(figure, rows, best),
    )


def _diabetes() -> tuple[torch.Tensor, torch.Tensor]:
    """float64 (442, 11), the last column 1 for the bias, and (442,), both with mean 0 and deviation 1."""
    from sklearn.datasets import load_diabetes

    inputs, targets = (torch.from_numpy(array).double() for array in load_diabetes(return_X_y=True, scaled=False))
    inputs, targets = ((each - each.mean(0)) / each.std(0) for each in (inputs, targets))
    return torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], dim=1), targets


def _loss(inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> float:
    """Half the mean squared error, as in d2l 3.1."""
    return float((inputs @ weights - targets).square().mean() / 2)


def _draw(figure: Figure, rows: Sequence[Sequence[Value]], best: float) -> None:
    axes = figure.subplots()
    axes.plot([float(row[0]) for row in rows[:-1]], [float(row[1]) for row in rows[:-1]], "o-", label="minibatch SGD")
    axes.axhline(best, color="C1", linestyle="--", label="closed form")
    axes.set(xlabel="epoch", ylabel="loss", xscale="symlog")
    axes.legend()


EXPERIMENT = Experiment(
    name="linear-regression",
    question="Does gradient descent find the solution that can also be written down?",
    chapter='d2l 3.1, "Linear Regression", and 3.4, "Linear Regression Implementation from Scratch"',
    course_says="Linear regression has an analytic solution, w = (X'X)^-1 X'y. Minibatch stochastic gradient descent "
    "comes near to it, but does not reach it in a finite number of steps; it also works where there is no formula.",
    run=run,
)
