"""K-fold cross-validation: d2l 3.6.3 and 5.7, where it chooses the options of a model on little data."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from sklearn.model_selection import StratifiedKFold

from dlenv.errors import UsageError
from dlenv_models.data import Dataset, Split
from dlenv_models.data.dataset import stratified
from dlenv_models.evaluation import measure
from dlenv_models.options import Options
from dlenv_models.training import Epoch, Step, train

__all__ = ["Fold", "cross_validate", "folds", "mean_and_deviation"]


@dataclass(frozen=True)
class Fold:
    """How good a model is on the part that it was not trained on: accuracy 0..1, loss in nats."""

    number: int
    rows: int
    accuracy: float
    loss: float
    seconds: float


def folds(dataset: Dataset, count: int) -> Iterator[Dataset]:
    """The dataset ``count`` times, each with another part of its rows for validation and the rest for training.

    The parts are the same for every seed and hold each class alike. The held-out split is in none of them.

    Raises ``UsageError`` where a class has fewer rows than there are folds.
    """
    whole = Split(
        torch.cat([dataset.train.inputs, dataset.validation.inputs]),
        torch.cat([dataset.train.labels, dataset.validation.labels]),
    )
    if (fewest := int(torch.bincount(whole.labels).min())) < count:
        raise UsageError(f"folds: {count} are too many for {dataset.name}, which has a class of {fewest} rows")
    kept = StratifiedKFold(count, shuffle=True, random_state=0).split(whole.labels, whole.labels)
    for train_rows, validation_rows in kept:
        yield replace(dataset, train=whole.take(train_rows), validation=whole.take(validation_rows))


def cross_validate(
    name: str,
    dataset: Dataset,
    options: Options,
    count: int,
    arguments: Mapping[str, Any] | None = None,
    on_step: Callable[[Step], None] = lambda _: None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Iterator[Fold]:
    """Train ``count`` models, each without one part of the data, and measure each on the part that it lacks.

    With ``patience`` a tenth of a fold's training rows says when to stop, so that the part that measures a model never
    chose its weights.
    """
    for number, part in enumerate(folds(dataset, count), 1):
        trained = train(name, _apart(part, options), options, arguments, on_step, on_epoch)
        held = measure(trained.module, trained.preprocessing, part.validation, len(part.classes))
        yield Fold(number, len(part.validation), held.test_accuracy, held.test_loss, trained.seconds)


def _apart(part: Dataset, options: Options) -> Dataset:
    if not options.patience:
        return part
    kept, taken = stratified(part.train.labels, 0.1, options.seed)
    return replace(part, train=part.train.take(kept), validation=part.train.take(taken))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and the standard deviation of the sample (divided by one less than there are values)."""
    return statistics.fmean(values), statistics.stdev(values)
