"""Weight decay: many inputs and few examples, where a model without it learns the noise by heart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure

from dlenv_models.experiments.experiment import Column, Experiment, Outcome, Value

INPUTS, TRAIN, HELD_OUT = 200, 20, 1000
EPOCHS, BATCH, LR = 100, 5, 0.01
DECAYS = (0.0, 1.0, 3.0, 10.0, 30.0)


def run(seed: int) -> Outcome:
    """Linear regression with 200 inputs on 20 rows, trained by gradient descent with more and more weight decay."""
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(TRAIN + HELD_OUT, INPUTS, generator=random)
    noise = 0.01 * torch.randn(TRAIN + HELD_OUT, generator=random)
    targets = 0.05 + 0.01 * inputs.sum(1) + noise
    rows: list[list[Value]] = []
    for decay in DECAYS:
        weights, bias = _trained(inputs[:TRAIN], targets[:TRAIN], decay, seed)
        losses = (inputs @ weights + bias - targets).square() / 2
        rows.append([decay, float(weights.norm()), float(losses[:TRAIN].mean()), float(losses[TRAIN:].mean())])
    best = min(rows, key=lambda row: row[3])
    return Outcome(
        columns=[
            Column("weight decay", "g"),
            Column("norm of the weights", ".4f"),
            Column("training loss", ".2e"),
            Column("held-out loss", ".2e"),
        ],
        rows=rows,
        found=f"without weight decay the training loss is {rows[0][2]:.1e} and the held-out loss {rows[0][3]:.1e}; "
        f"weight decay {best[0]:g} brings the latter to {best[3]:.1e}, with weights of norm {best[1]:.2f} instead of "
        f"{rows[0][1]:.2f}",
        draw=lambda figure: _draw(figure, rows),
    )


def _trained(inputs: torch.Tensor, targets: torch.Tensor, decay: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and bias; the penalty is decay / 2 times the squared norm of the weights, without the bias."""
    random = torch.Generator().manual_seed(seed)
    weights = torch.randn(INPUTS, generator=random)
    bias = torch.zeros(())
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(targets), generator=random), BATCH):
            error = inputs[batch] @ weights + bias - targets[batch]
            weights -= LR * (inputs[batch].T @ error / len(batch) + decay * weights)
            bias -= LR * error.mean()
    return weights, bias


def _draw(figure: Figure, rows: Sequence[Sequence[Value]]) -> None:
    axes = figure.subplots()
    for column, label in ((2, "training"), (3, "held out")):
        axes.plot([f"{row[0]:g}" for row in rows], [float(row[column]) for row in rows], "o-", label=label)
    axes.set(xlabel="weight decay", ylabel="loss", yscale="log")
    axes.legend()


EXPERIMENT = Experiment(
    name="weight-decay",
    question="Does keeping the weights small help where there are more inputs than examples?",
    chapter='d2l 3.7, "Weight Decay"',
    course_says="Without weight decay the training error falls and the validation error does not: overfitting. With "
    "it the training error is larger and the validation error smaller.",
    run=run,
)
