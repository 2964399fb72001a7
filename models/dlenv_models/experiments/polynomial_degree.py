"""Underfitting and overfitting: polynomials of growing degree through few noisy points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from numpy.polynomial import Legendre

from dlenv_models.experiments.experiment import Column, Experiment, Outcome, Value

TRAIN, HELD_OUT = 20, 1000
NOISE = 0.1
DEGREES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 19)
Numbers = npt.NDArray[np.float64]


def truth(x: Numbers) -> Numbers:
    """The polynomial of the book: of third degree."""
    return 5 + 1.2 * x - 3.4 * x**2 / 2 + 5.6 * x**3 / 6


def run(seed: int) -> Outcome:
    """Fit 20 points of a cubic by least squares, with more and more terms; measure on 1,000 other points."""
    random = np.random.RandomState(seed)
    x, more_x = (np.sort(random.uniform(-2, 2, count)) for count in (TRAIN, HELD_OUT))
    y, more_y = (truth(each) + random.normal(0, NOISE, len(each)) for each in (x, more_x))
    # The same functions as with powers of x, but numerically tame; [-2, 2] is where they are orthogonal.
    fits = {degree: Legendre.fit(x, y, degree, domain=[-2, 2]) for degree in DEGREES}
    rows: list[list[Value]] = [
        [degree, float(((fit(x) - y) ** 2).mean() / 2), float(((fit(more_x) - more_y) ** 2).mean() / 2)]
        for degree, fit in fits.items()
    ]
    best = min(rows, key=lambda row: row[2])
    return Outcome(
        columns=[Column("degree"), Column("training loss", ".2e"), Column("held-out loss", ".2e")],
        rows=rows,
        found=f"the data come from degree 3; degree {best[0]} has the lowest held-out loss, {best[2]:.1e}. Degree 1 "
        f"misses both ({rows[1][1]:.1e} and {rows[1][2]:.1e}), and degree {rows[-1][0]} goes through every training "
        f"point ({rows[-1][1]:.1e}) and misses what lies between ({rows[-1][2]:.1e})",
        draw=lambda figure: _draw(figure, rows, (x, y), fits),
    )


def _draw(
    figure: Figure, rows: Sequence[Sequence[Value]], points: tuple[Numbers, Numbers], fits: dict[int, Legendre]
) -> None:
    left, right = figure.subplots(1, 2)
    degrees = [float(row[0]) for row in rows]
    left.plot(degrees, [max(float(row[1]), 1e-12) for row in rows], "o-", label="training")
    left.plot(degrees, [float(row[2]) for row in rows], "o-", label="held out")
    left.set(xlabel="degree", ylabel="loss", yscale="log", ylim=(1e-6, None))
    left.legend()
    line = np.linspace(-2, 2, 400)
    right.plot(*points, "ko", markersize=3)
    for degree in (1, 3, 19):
        right.plot(line, fits[degree](line), label=f"degree {degree}", linewidth=1)
    right.set(xlabel="x", ylabel="y", ylim=(points[1].min() - 2, points[1].max() + 2))
    right.legend()


EXPERIMENT = Experiment(
    name="polynomial-degree",
    question="How does a model's complexity decide between underfitting and overfitting?",
    chapter='d2l 3.6, "Generalization" (d2l-zh 4.4, polynomial regression)',
    course_says="A model that is too simple can't reduce even the training error: underfitting. One that is much more "
    "complex than the data fits the noise, too: the training error falls and the generalization error grows.",
    run=run,
)
