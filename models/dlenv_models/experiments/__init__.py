"""The findings of the course notes as experiments: each is run by a command, and gives a table and a picture.

    dlenv experiment list
    dlenv experiment run spiral

An experiment is a module here with an ``EXPERIMENT``. What it finds depends on nothing but its seed (and, in the last
digits, on the processor). Each takes less than two minutes on two cores.
"""

from __future__ import annotations

from importlib import import_module

from dlenv.errors import UsageError
from dlenv_models._check import choice
from dlenv_models.experiments.experiment import Experiment, Outcome

__all__ = ["NAMES", "Experiment", "Outcome", "get"]

# In the order of the book.
NAMES = (
    "saving-memory",
    "linear-regression",
    "polynomial-degree",
    "weight-decay",
    "spiral",
    "depth-width",
    "vanishing-gradients",
    "initialisation",
    "dropout",
)


def get(name: str) -> Experiment:
    """The experiment of that name; raises ``UsageError`` where there is none."""
    try:
        choice(name, "experiment", NAMES)
    except ValueError as error:
        raise UsageError(str(error)) from None
    experiment: Experiment = import_module(f"{__name__}.{name.replace('-', '_')}").EXPERIMENT
    return experiment
