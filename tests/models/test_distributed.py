"""What a checkpoint holds is all that the rest of a training depends on.

The processes themselves are in tests/e2e/test_train_workers.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dlenv.errors import DataError, UsageError
from dlenv_models import distributed, training
from dlenv_models.data import load
from dlenv_models.options import Options
from dlenv_models.training import Group, Progress, Step


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
    for rank in range(9):  # the last two have none
        random = torch.Generator().manual_seed(3)
        share = affine(images[rank::9], random, (rank, 9, 7))
        assert torch.allclose(share, whole[rank::9], atol=1e-6)
        after = torch.Generator().manual_seed(3)
        affine(images, after)
        assert torch.equal(random.get_state(), after.get_state())


@pytest.fixture
def process_group() -> Iterator[None]:
    """Of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class Wrapped(Group):
    """What a process of several does with its module and its figures."""

    wrap = distributed._Workers.wrap
    sums = distributed._Workers.sums


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize(("name", "freeze"), [("autoencoder", True), ("rbm", False), ("dbn", False), ("mlp", False)])
def test_gradients_are_averaged_also_where_not_all_parameters_have_one(name: str, freeze: bool) -> None:
    """Decoders and visible biases have no part in the logits; PyTorch refuses that unless it is told."""
    dataset = load("digits")
    options = replace(Options(epochs=1, batch_size=400), freeze=freeze)
    alone, wrapped = (
        training.train(name, dataset, options, {"hidden": [8]}, group=each) for each in (Group(), Wrapped())
    )
    for key, value in alone.module.state_dict().items():
        assert torch.allclose(value, wrapped.module.state_dict()[key], atol=1e-5), key


@pytest.mark.parametrize(
    ("options", "workers", "reason"),
    [
        ({}, 65, "workers: 65 is not between 2 and the batch size, 64"),
        ({"batch_size": 2000}, 1500, "workers: 1500 is not between 2 and the batch size, 1295"),
        ({"device": "cuda:1"}, 2, "device: 'cuda:1' can't be shared out"),
        ({"device": "mps"}, 2, "device: 'mps' can't be shared out"),
        # 1,295 rows in batches of 4: three in the last
        ({"batch_size": 4}, 2, "workers: of a batch of 3 rows, 2 processes have too few each for mlp, whose batch"),
    ],
)
def test_what_can_not_be_shared_out(options: dict[str, Any], workers: int, reason: str) -> None:
    dataset = load("digits")
    with pytest.raises(UsageError, match=reason):
        distributed.check("mlp", dataset, Options(**options), {"batch_norm": True}, workers)
    distributed.check("mlp", dataset, Options(), {"batch_norm": True}, 2)
    # The GPUs may be in other machines than this one.
    distributed.check("mlp", dataset, Options(device="cuda"), {}, 2)


class Second(Group):
    """Another process than the first, whose running means are others; ``first`` is what the first one measured."""

    rank = 1
    size = 2

    def __init__(self, first: list[float]) -> None:
        self._first = first
        self.told = 0

    def sums(self, *numbers: float) -> tuple[float, ...]:
        return numbers

    def of_first(self, *numbers: float) -> tuple[float, ...]:
        self.told += 1
        return (self._first[self.told - 1], 0.5)


def test_all_stop_early_where_the_first_does() -> None:
    """Else one would wait without an end for another that has stopped."""
    dataset = load("digits")
    options = Options(epochs=6, patience=2, batch_size=400)
    trained = training.train("mlp", dataset, options, {"hidden": [8]}, group=Second([0.5, 0.6, 0.7, 0.1, 0.1, 0.1]))
    assert [epoch.validation_loss for epoch in trained.history] == [0.5, 0.6, 0.7]


def test_a_loss_that_is_no_number_is_found_by_all_at_the_same_place() -> None:
    dataset = load("digits")
    options = Options(epochs=2, lr=1000, optimizer="sgd", batch_size=400)
    second = Second([0.5, 0.5])
    steps: list[Step] = []
    with pytest.raises(DataError, match="the loss stopped being a number in epoch 1"):
        training.train("mlp", dataset, options, {"hidden": [64] * 8}, steps.append, group=second)
    assert len(steps) == 4
    assert not second.told
