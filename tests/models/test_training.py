from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dlenv.errors import DataError, UsageError
from dlenv_models.data import Dataset, load
from dlenv_models.evaluation import measure
from dlenv_models.training import Epoch, Options, Step, Trained, recipe, train

QUICK = Options(epochs=2, augment=False)


@pytest.fixture(scope="module")
def spiral() -> Dataset:
    return load("spiral")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


def weights(trained: Trained) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in trained.module.state_dict().values()])


def accuracy(trained: Trained, dataset: Dataset) -> float:
    return measure(trained.module, dataset.preprocessing, dataset.test, len(dataset.classes)).test_accuracy


def test_the_experiment_of_the_course(spiral: Dataset) -> None:
    """A linear model fails on the spiral; one hidden layer of 100 ReLUs solves it. No tuning: the defaults."""
    linear = train("linear", spiral, recipe("linear", spiral))
    mlp = train("mlp", spiral, recipe("mlp", spiral))
    assert mlp.architecture.arguments["hidden"] == [100]
    assert mlp.architecture.arguments["activation"] == "relu"
    assert accuracy(linear, spiral) <= 0.60
    assert accuracy(mlp, spiral) >= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("mlp", 0.97), ("lenet", 0.985)])
def test_the_recipe_for_handwritten_digits(name: str, least: float) -> None:
    dataset = load("mnist5k")
    assert accuracy(train(name, dataset, recipe(name, dataset)), dataset) >= least


@pytest.mark.parametrize(
    ("name", "options", "arguments"),
    [
        ("mlp", {"augment": True}, {"dropout": 0.3, "init": "xavier"}),
        ("mlp", {"optimizer": "sgd", "clip": 1.0, "patience": 1}, {}),
    ],
)
def test_the_same_seed_gives_the_same_weights(
    digits: Dataset, name: str, options: dict[str, Any], arguments: dict[str, Any]
) -> None:
    chosen = replace(QUICK, **options)
    first = weights(train(name, digits, chosen, arguments))
    torch.rand(7)  # what others draw in between does not matter
    assert torch.equal(first, weights(train(name, digits, chosen, arguments)))
    assert not torch.equal(first, weights(train(name, digits, replace(chosen, seed=1), arguments)))


def test_training_leaves_the_random_state_of_the_caller_alone(digits: Dataset) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train("linear", digits, replace(QUICK, epochs=1))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "momentum": 0.0, "lr": 0.1},
        {"optimizer": "adamw", "weight_decay": 0.01},
        {"schedule": "constant"},
        {"clip": 0.5},
        {"batch_size": 32},
    ],
)
def test_every_option_learns_and_changes_the_result(digits: Dataset, change: dict[str, Any]) -> None:
    plain, changed = (train("linear", digits, options) for options in (QUICK, replace(QUICK, **change)))
    assert accuracy(changed, digits) >= 0.85
    assert not torch.equal(weights(plain), weights(changed))


def test_weight_decay_makes_weights_smaller(digits: Dataset) -> None:
    plain, decayed = (train("linear", digits, replace(QUICK, weight_decay=decay)) for decay in (0.0, 0.1))
    assert weights(decayed).norm() < weights(plain).norm()


def test_early_stopping_keeps_the_best_weights(digits: Dataset) -> None:
    """At this learning rate the validation loss soon gets worse."""
    options = Options(epochs=60, lr=0.05, patience=2, schedule="constant")
    trained = train("mlp", digits, options, {"hidden": [32]})
    losses = [epoch.validation_loss for epoch in trained.history]
    assert len(losses) < 60
    assert losses.index(min(losses)) == len(losses) - 3  # two epochs of patience after the best
    kept = measure(trained.module, digits.preprocessing, digits.validation, 10)
    assert kept.test_loss == pytest.approx(min(losses))


def test_training_tells_how_far_it_is(digits: Dataset) -> None:
    steps: list[Step] = []
    epochs: list[Epoch] = []
    trained = train("linear", digits, QUICK, None, steps.append, epochs.append)
    assert steps[-1].done == steps[-1].total == 2 * len(digits.train)
    assert trained.history == tuple(epochs)
    assert [epoch.epoch for epoch in epochs] == [1, 2]
    assert epochs[1].train_loss < epochs[0].train_loss
    assert all(epoch.rate > 0 for epoch in epochs)


def test_a_loss_that_is_no_number_ends_training(digits: Dataset) -> None:
    with pytest.raises(DataError, match="loss stopped being a number in epoch 1; try a lower --lr"):
        train("mlp", digits, replace(QUICK, optimizer="sgd", lr=1000), {"hidden": [64, 64]})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epochs": 0}, "epochs: 0 is not between 1"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"lr": float("nan")}, "lr: nan"),
        ({"momentum": 1.0}, "momentum: 1.0"),
        ({"optimizer": "adm"}, r"optimizer: 'adm' is not one of sgd, adam, adamw; did you mean 'adam'\?"),
        ({"schedule": "stp"}, r"schedule: 'stp' is not one of .*; did you mean 'step'\?"),
        ({"seed": -1}, "seed: -1"),
        ({"device": "tpu"}, "device: 'tpu' is not one of"),
        ({"device": "cuda:99"}, "device: 'cuda:99' is not there"),
        ({"augment": True}, "augment: spiral holds no images"),
    ],
)
def test_bad_options_are_named(spiral: Dataset, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        train("mlp", spiral, replace(QUICK, **change))


def test_batch_size_one_has_nothing_to_normalise(digits: Dataset) -> None:
    with pytest.raises(UsageError, match=r"batch_size: 1 is too small for resnet18, .*; take 2 or more$"):
        train("resnet18", digits, replace(QUICK, batch_size=1))


@pytest.mark.parametrize(
    ("rows", "size", "ends"),
    [(9, 4, [4, 9]), (10, 4, [4, 8, 10]), (8, 4, [4, 8]), (3, 2, [3]), (1, 4, [1]), (3, 1, [1, 2, 3])],
)
def test_a_last_batch_of_one_row_joins_the_one_before(digits: Dataset, rows: int, size: int, ends: list[int]) -> None:
    steps: list[Step] = []
    train("linear", first(digits, rows), replace(QUICK, epochs=1, batch_size=size), on_step=steps.append)
    assert [step.done for step in steps] == ends


def test_resnet_trains_where_one_row_is_left_over(digits: Dataset) -> None:
    """The last stage has one pixel of these images, so that a single row would be a single value for each channel."""
    trained = train("resnet18", first(digits, 5), replace(QUICK, epochs=1, batch_size=2))
    assert torch.isfinite(weights(trained)).all()


def first(dataset: Dataset, rows: int) -> Dataset:
    """The dataset with only so many training rows."""
    return replace(dataset, train=dataset.train.take(np.arange(rows)))


def test_an_architecture_that_does_not_fit_the_data(spiral: Dataset, digits: Dataset) -> None:
    with pytest.raises(UsageError, match="lenet takes images"):
        train("lenet", spiral, QUICK)
    with pytest.raises(UsageError, match="at least 12 x 12 pixels"):
        train("lenet", digits, QUICK)
