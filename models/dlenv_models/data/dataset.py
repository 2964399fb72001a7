"""A dataset in the form in which its model will be served: raw pixels or features, labels, and their story."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from dlenv_models.manifest import DataInfo, Preprocessing


@dataclass(frozen=True)
class Split:
    """``inputs``: uint8 (N, C, H, W) or float32 (N, F); ``labels``: int64 (N,), indices into the classes."""

    inputs: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: npt.NDArray[np.int64]) -> Split:
        """Those rows, in that order."""
        index = torch.from_numpy(rows)
        return Split(self.inputs[index], self.labels[index])


@dataclass(frozen=True)
class Dataset:
    """Three splits of one dataset. ``test`` is held out: nothing about a model is ever chosen by it."""

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    source: str
    license: str

    @property
    def row_shape(self) -> tuple[int, ...]:
        """(C, H, W) of images, (F,) of rows."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def is_images(self) -> bool:
        """Whether the rows are images, uint8 (C, H, W)."""
        return len(self.row_shape) == 3

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Scale pixels to 0..1, then give each channel (or feature) of the training split mean 0 and deviation 1."""
        scale = 1 / 255 if self.is_images else 1.0
        inputs = self.train.inputs.double() * scale
        over = (0, 2, 3) if self.is_images else (0,)
        mean, std = inputs.mean(over), inputs.std(over, correction=0).clamp(min=1e-3)
        return Preprocessing(scale, *(tuple(round(x, 4) for x in values.tolist()) for values in (mean, std)))

    @property
    def pixels_to_one(self) -> Preprocessing:
        """Scale pixels to 0..1 and leave it at that: they can be taken for the probability of being white."""
        channels = self.row_shape[0]
        return Preprocessing(1 / 255, (0.0,) * channels, (1.0,) * channels)

    def info(self) -> DataInfo:
        """What the manifest of a model says about this dataset."""
        sizes = (len(self.train), len(self.validation), len(self.test))
        return DataInfo(self.name, self.source, self.license, *sizes)


def stratified(labels: torch.Tensor, fraction: float, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Row numbers (kept, taken), both ascending: ``fraction`` of each class, but at least one, is taken by ``seed``.

    numpy's ``RandomState`` is frozen for good (NEP 19), so a seed means the same rows with every version.
    """
    random = np.random.RandomState(seed)
    taken = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels.numpy()):
        rows = np.flatnonzero(labels.numpy() == label)
        taken[random.permutation(rows)[: max(1, round(len(rows) * fraction))]] = True
    return np.flatnonzero(~taken), np.flatnonzero(taken)


def hold_out(whole: Split, fraction: float) -> tuple[Split, Split]:
    """(rest, test): a stratified test split that is the same for everybody, whatever the seed of the training."""
    kept, taken = stratified(whole.labels, fraction, seed=0)
    return whole.take(kept), whole.take(taken)


def with_validation(  # one keyword for each fact of the dataset
    *, name: str, classes: tuple[str, ...], train: Split, test: Split, source: str, license_: str, seed: int
) -> Dataset:
    """The dataset with a tenth of its training rows, stratified by ``seed``, set aside for validation."""
    kept, taken = stratified(train.labels, 0.1, seed)
    return Dataset(name, classes, train.take(kept), train.take(taken), test, source, license_)
