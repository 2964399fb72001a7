"""What a checkpoint holds is all that the rest of a training depends on.

The processes themselves are in tests/e2e/test_train_workers.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dlenv_models import distributed, training
from dlenv_models.data import load
from dlenv_models.training import Group, Progress


class Stopped(Exception):
    """The process died."""


class Dying(Group):
    """Makes a checkpoint after each epoch, and dies after one of them."""

    def __init__(self, folder: Path, after: int) -> None:
        self._folder = folder
        self._after = after

    def end(self, progress: Progress, *, last: bool) -> None:
        distributed._save(self._folder, progress)
        if len(progress.history) == self._after:
            raise Stopped


class Resuming(Group):
    """Goes on from it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, progress: Progress) -> None:
        distributed._load(self._folder, progress)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("patience", [0, 2])
def test_it_goes_on_as_if_nothing_had_been(tmp_path: Path, optimizer: str, patience: int) -> None:
    dataset = load("digits")
    options = replace(training.recipe("mlp", dataset), epochs=6, optimizer=optimizer, patience=patience, augment=True)
    arguments = {"hidden": [16], "dropout": 0.3, "batch_norm": True}
    whole = training.train("mlp", dataset, options, arguments)
    with pytest.raises(Stopped):
        training.train("mlp", dataset, options, arguments, group=Dying(tmp_path, 3))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]
    again = training.train("mlp", dataset, options, arguments, group=Resuming(tmp_path))
    for (name, one), other in zip(whole.module.state_dict().items(), again.module.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    kept = [replace(epoch, rate=0.0) for epoch in again.history]
    assert kept == [replace(epoch, rate=0.0) for epoch in whole.history]


def test_a_share_of_a_batch_is_changed_as_in_the_whole() -> None:
    from dlenv_models.augment import affine

    images = torch.rand(7, 1, 8, 8)
    whole = affine(images, torch.Generator().manual_seed(3))
    for rank in range(3):
        share = affine(images[rank::3], torch.Generator().manual_seed(3), (rank, 3, 7))
        assert torch.allclose(share, whole[rank::3], atol=1e-6)
