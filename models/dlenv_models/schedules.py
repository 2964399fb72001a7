"""How the learning rate changes while a model is trained: d2l 12.11, "Learning Rate Scheduling"."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

__all__ = ["SCHEDULES", "factor"]


def _step(progress: float) -> float:
    """A tenth after half of the training, and again after three quarters: He et al. (2015), section 4.2."""
    return 0.1 ** ((progress >= 0.5) + (progress >= 0.75))


# From the part of the training that is done, 0 to 1, to the part of the learning rate that is left.
SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,  # Loshchilov and Hutter, 2016, without restarts
    "step": _step,
    "exponential": lambda progress: 0.01**progress,  # the same part is lost in each epoch; a hundredth is left
}


def factor(schedule: str, done: float, epochs: int, warmup: int = 0) -> float:
    """The part (0..1) of the learning rate that is used after ``done`` of ``epochs``.

    In the first ``warmup`` epochs it rises from 0 in a straight line, so that the first steps, which random weights
    send anywhere, are small ones (Goyal et al., 2017); the schedule has the epochs after them.

    >>> [factor("cosine", done, 12, warmup=2) for done in (0, 1, 2, 7, 12)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if done < warmup:
        return done / warmup
    return SCHEDULES[schedule]((done - warmup) / (epochs - warmup))
