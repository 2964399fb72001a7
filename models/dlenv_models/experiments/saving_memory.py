"""Which ways to update a tensor take new memory: the book's "Saving Memory"."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch.utils._python_dispatch import TorchDispatchMode

from dlenv_models.experiments.experiment import Column, Experiment, Outcome, Value

SIZE = 1024 * 1024  # numbers of float32: 4 MiB
UPDATES = 10
Update = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class NewMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch has no types there
    """Counts the bytes of all results, inside its context, that do not lie in an operator's own arguments."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operator and look at where its result lies."""
        result = func(*args, **(kwargs or {}))
        old = {each.untyped_storage().data_ptr() for each in args if isinstance(each, torch.Tensor)}
        if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in old:
            self.bytes += result.untyped_storage().nbytes()
        return result


def _assigned(weights: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    weights[:] = weights - 0.1 * gradient
    return weights


def _subtracted(weights: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    weights -= 0.1 * gradient
    return weights


WAYS: Mapping[str, Update] = {
    "w = w - lr * g": lambda weights, gradient: weights - 0.1 * gradient,
    "w[:] = w - lr * g": _assigned,
    "w -= lr * g": _subtracted,
    "w.sub_(g, alpha=lr)": lambda weights, gradient: weights.sub_(gradient, alpha=0.1),
}


def run(seed: int) -> Outcome:
    """Update a million parameters ten times in each way, and count the bytes of new tensors."""
    rows: list[list[Value]] = []
    torch.manual_seed(seed)
    start, gradient = torch.randn(SIZE), torch.randn(SIZE)
    for way, update in WAYS.items():
        weights = start.clone()
        stays = True
        with NewMemory() as new:
            for _ in range(UPDATES):
                place = weights.data_ptr()  # where one before stood may be taken again, never that of the last
                weights = update(weights, gradient)
                stays &= weights.data_ptr() == place
        rows.append([way, new.bytes / UPDATES / 2**20, "yes" if stays else "no"])
    first, last = rows[0], rows[-1]
    return Outcome(
        columns=[Column("update"), Column("new MiB for each update", ".1f"), Column("w stays in its place")],
        rows=rows,
        found=f"for 4 MiB of weights, {first[0]!r} takes {first[1]:.0f} MiB of new memory for each update, "
        f"{last[0]!r} takes {last[1]:.0f}",
        draw=lambda figure: _draw(figure, rows),
    )


def _draw(figure: Figure, rows: Sequence[Sequence[Value]]) -> None:
    axes = figure.subplots()
    axes.barh([str(row[0]) for row in rows], [float(row[1]) for row in rows])
    axes.invert_yaxis()
    axes.set(xlabel="new memory for each update of 4 MiB of weights (MiB)")


EXPERIMENT = Experiment(
    name="saving-memory",
    question="Which ways to update parameters take new memory each time?",
    chapter='d2l 2.1.5, "Saving Memory"',
    course_says="Operations may allocate new memory for their results. Parameters are updated many times a second and "
    "are referred to from many places, so they should be updated in place: X[:] = ..., or X += Y.",
    run=run,
)
