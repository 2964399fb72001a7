"""Each technique of the course, by what it changes on real data."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from dlenv.errors import UsageError
from dlenv_models import gradients, zoo
from dlenv_models.crossvalidation import cross_validate, folds, mean_and_deviation
from dlenv_models.data import Dataset, load
from dlenv_models.ensembles import train_ensemble
from dlenv_models.evaluation import measure, predict
from dlenv_models.experiments.saving_memory import NewMemory
from dlenv_models.options import OPTIMIZERS, Options
from dlenv_models.pretraining import Pretrained
from dlenv_models.schedules import factor
from dlenv_models.training import Group, Progress, Trained, train

QUICK = Options(epochs=2)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


@pytest.fixture(scope="module")
def few(digits: Dataset) -> Dataset:
    """Only 100 training rows: what holds models back from learning by heart matters."""
    return replace(digits, train=digits.train.take(np.arange(100)))


def accuracy(trained: Trained, dataset: Dataset) -> float:
    return measure(trained.module, trained.preprocessing, dataset.test, len(dataset.classes)).test_accuracy


def loss(trained: Trained, dataset: Dataset) -> float:
    return measure(trained.module, trained.preprocessing, dataset.test, len(dataset.classes)).test_loss


def gradient(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([weights.grad.flatten() for weights in module.parameters() if weights.grad is not None])


@pytest.fixture
def steep(digits: Dataset) -> torch.nn.Module:
    """A network whose gradient on real digits is long."""
    torch.manual_seed(0)
    module = zoo.build("mlp", input_shape=[1, 8, 8], classes=10, hidden=[32])
    torch.nn.functional.cross_entropy(20 * module(digits.train.inputs.float()), digits.train.labels).backward()
    assert gradient(module).norm() > 10
    return module


def test_clipping_by_norm_keeps_the_direction(steep: torch.nn.Module) -> None:
    before = gradient(steep)
    gradients.limit(steep, clip=2.0)
    after = gradient(steep)
    assert after.norm() == pytest.approx(2.0, rel=1e-4)
    assert torch.allclose(after / after.norm(), before / before.norm(), atol=1e-5)
    gradients.limit(steep, clip=3.0)
    assert torch.equal(gradient(steep), after)  # short enough already


def test_clipping_by_value_turns_it(steep: torch.nn.Module) -> None:
    before = gradient(steep)
    gradients.limit(steep, clip_value=0.01)
    after = gradient(steep)
    assert torch.equal(after, before.clamp(-0.01, 0.01))
    assert torch.cosine_similarity(after, before, dim=0) < 0.99


def test_normalised_gradients_have_the_norm_1_also_where_they_vanish(steep: torch.nn.Module) -> None:
    gradients.limit(steep, normalize=True)
    assert gradient(steep).norm() == pytest.approx(1.0, rel=1e-4)
    for weights in steep.parameters():
        assert weights.grad is not None
        weights.grad.mul_(1e-12)
    gradients.limit(steep, normalize=True)
    assert gradient(steep).norm() == pytest.approx(1.0, rel=1e-4)
    for weights in steep.parameters():
        assert weights.grad is not None
        weights.grad.zero_()
    gradients.limit(steep, normalize=True)
    assert gradient(steep).norm() == 0


def test_limited_gradients_train_where_unlimited_ones_run_away(digits: Dataset) -> None:
    """At this learning rate plain gradient descent leaves the road."""
    wild = Options(epochs=3, optimizer="sgd", lr=3.0, momentum=0.0, schedule="constant")
    assert accuracy(train("mlp", digits, wild, {"hidden": [64, 64]}), digits) < 0.3
    for limits in ({"clip": 0.03}, {"clip_value": 0.003}, {"lr": 0.05, "normalize_gradients": True}):
        tamed = replace(wild, **limits)  # type: ignore[arg-type]  # each key has its own type
        assert accuracy(train("mlp", digits, tamed, {"hidden": [64, 64]}), digits) > 0.8, limits


def test_schedules_fall_as_they_say() -> None:
    tenths = [i / 10 for i in range(11)]
    assert [factor("constant", done, 1) for done in tenths] == [1] * 11
    assert [round(factor("step", done, 1), 6) for done in tenths] == [1] * 5 + [0.1] * 3 + [0.01] * 3
    exponential = [factor("exponential", done, 1) for done in tenths]
    ratios = [after / before for before, after in pairwise(exponential)]
    assert exponential[0] == 1
    assert exponential[-1] == pytest.approx(0.01)
    assert ratios == pytest.approx([ratios[0]] * 10)
    assert [factor("cosine", done, 10, warmup=2) for done in (0, 0.5, 1, 2, 6, 10)] == [0, 0.25, 0.5, 1, 0.5, 0]


@pytest.mark.parametrize("schedule", ["cosine", "step", "exponential"])
def test_a_falling_learning_rate_ends_nearer_to_the_minimum(digits: Dataset, schedule: str) -> None:
    """The training loss of softmax regression at a rate that is too large to settle."""
    options = Options(epochs=6, lr=0.5, schedule=schedule)
    constant = train("linear", digits, replace(options, schedule="constant"))
    fallen = train("linear", digits, options)
    assert fallen.history[-1].train_loss < 0.7 * constant.history[-1].train_loss


def test_warm_up_spares_a_deep_network_the_first_steps(digits: Dataset) -> None:
    """Adam's first steps are as long as the learning rate whatever the gradient is: too long for six layers."""
    losses = {}
    for warmup in (0, 2):
        options = [Options(epochs=8, lr=0.02, warmup=warmup, seed=seed) for seed in range(3)]
        ends = [train("mlp", digits, each, {"hidden": [64] * 6}).history[-1] for each in options]
        losses[warmup] = sum(end.train_loss for end in ends) / 3
    assert losses[2] < 0.6 * losses[0]


def test_label_smoothing_keeps_a_model_from_being_too_sure(few: Dataset) -> None:
    plain, smooth = (train("mlp", few, Options(epochs=30, label_smoothing=part)) for part in (0.0, 0.1))
    surest = [
        float(predict(each.module, each.preprocessing, few.test.inputs).softmax(1).amax(1).mean())
        for each in (plain, smooth)
    ]
    assert surest[1] < surest[0] - 0.03
    assert loss(smooth, few) < loss(plain, few)


def test_weight_decay_helps_where_there_is_little_data(few: Dataset) -> None:
    options = Options(epochs=40, optimizer="adamw", schedule="constant")
    plain, decayed = (train("mlp", few, replace(options, weight_decay=amount)) for amount in (0.0, 3.0))
    assert loss(decayed, few) < loss(plain, few)
    assert decayed.history[-1].train_loss > plain.history[-1].train_loss


def test_dropout_helps_where_there_is_little_data(few: Dataset) -> None:
    plain, dropped = (train("mlp", few, Options(epochs=40), {"dropout": part}) for part in (0.0, 0.5))
    assert loss(dropped, few) < loss(plain, few)
    assert dropped.history[-1].train_loss > plain.history[-1].train_loss


def test_augmentation_helps_where_there_is_little_data() -> None:
    mnist = load("mnist5k")
    tenth = replace(mnist, train=mnist.train.take(np.arange(0, 3600, 10)))
    plain, changed = (train("mlp", tenth, Options(epochs=30, lr=0.003, augment=each)) for each in (False, True))
    assert accuracy(changed, tenth) > accuracy(plain, tenth) + 0.02


def test_batch_normalisation_trains_a_deep_sigmoid_network(digits: Dataset) -> None:
    arguments = {"hidden": [64] * 5, "activation": "sigmoid"}
    options = Options(epochs=6, lr=0.003)
    plain, normal = (train("mlp", digits, options, {**arguments, "batch_norm": each}) for each in (False, True))
    assert accuracy(plain, digits) < 0.5
    assert accuracy(normal, digits) > 0.9


def test_batch_normalisation_needs_two_rows(digits: Dataset) -> None:
    with pytest.raises(UsageError, match="batch_size: 1 is too small for mlp, whose batch normalisation"):
        train("mlp", digits, replace(QUICK, batch_size=1), {"batch_norm": True})


def test_mixed_precision_is_as_good_and_keeps_weights_in_float32(digits: Dataset) -> None:
    full, mixed = (train("mlp", digits, Options(epochs=6, precision=each)) for each in ("float32", "bf16"))
    assert accuracy(mixed, digits) >= accuracy(full, digits) - 0.02
    tensors = [list(each.module.state_dict().values()) for each in (full, mixed)]
    assert {tensor.dtype for tensor in tensors[1]} == {torch.float32}
    assert not torch.equal(tensors[0][0], tensors[1][0])


@pytest.mark.parametrize(("activation", "init", "vanish"), [("sigmoid", "default", True), ("relu", "kaiming", False)])
def test_the_history_shows_whether_gradients_vanish(digits: Dataset, activation: str, init: str, vanish: bool) -> None:
    """d2l 5.4: each sigmoid makes the gradient at least four times shorter; ReLU and Kaiming's weights keep it."""
    arguments = {"hidden": [64] * 8, "activation": activation, "init": init}
    norms = train("mlp", digits, Options(epochs=1, lr=1e-9), arguments).history[-1].gradient_norms
    assert list(norms) == [*(f"dense{i}" for i in range(1, 9)), "output"]
    ratio = norms["dense2"] / norms["dense8"]
    assert ratio < 0.25**6 if vanish else 0.3 < ratio < 3


class Watched(Group):
    """Looks after each epoch at where the weights lie, and at what a step more takes."""

    def __init__(self) -> None:
        self.places: list[list[int]] = []
        self.taken: list[int] = []

    def end(self, progress: Progress, *, last: bool) -> None:
        state = [each for each in progress.optimizer.state.values() if each]
        tensors = [*progress.module.parameters(), *(value for each in state for value in each.values())]
        self.places.append([tensor.data_ptr() for tensor in tensors if isinstance(tensor, torch.Tensor)])
        with NewMemory() as new:
            progress.optimizer.step()
        self.taken.append(new.bytes)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_updates_in_place_take_no_memory(digits: Dataset, optimizer: str) -> None:
    """d2l 2.1.5: weights, and what an optimizer keeps of them, stay where they are for the whole training."""
    watched = Watched()
    train("mlp", digits, Options(epochs=3, optimizer=optimizer, weight_decay=0.01), group=watched)
    assert watched.places == [watched.places[0]] * 3
    assert watched.taken == [0] * 3


def test_folds_share_out_every_row_but_the_held_out_ones(digits: Dataset) -> None:
    parts = list(folds(digits, 4))
    rows = len(digits.train) + len(digits.validation)
    assert sum(len(part.validation) for part in parts) == rows
    for part in parts:
        assert len(part.train) + len(part.validation) == rows
        assert torch.equal(part.test.inputs, digits.test.inputs)
        assert torch.bincount(part.validation.labels).min() >= 30  # of about 36 of each digit
    sums = sorted(tuple(image.flatten().tolist()) for part in parts for image in part.validation.inputs)
    whole = torch.cat([digits.train.inputs, digits.validation.inputs])
    assert sums == sorted(tuple(image.flatten().tolist()) for image in whole)


def test_cross_validation_tells_good_options_from_bad_ones(digits: Dataset) -> None:
    """What chooses by the folds chooses what is better on the held-out split, too."""
    means = {}
    for lr in (0.00001, 0.01):
        options = replace(QUICK, lr=lr)
        results = list(cross_validate("linear", digits, options, 3))
        means[lr], deviation = mean_and_deviation([fold.accuracy for fold in results])
        assert 0 < deviation < 0.1
        assert means[lr] == pytest.approx(accuracy(train("linear", digits, options), digits), abs=0.08)
    assert means[0.01] > means[0.00001] + 0.3


def test_what_measures_a_fold_never_chooses_its_weights(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """With early stopping, rows that pick the best epoch would flatter it."""
    from dlenv_models import crossvalidation

    seen: list[Dataset] = []

    def spy(name: str, part: Dataset, *more: Any) -> Trained:
        seen.append(part)
        return train(name, part, *more)

    monkeypatch.setattr(crossvalidation, "train", spy)
    for patience in (0, 1):
        list(cross_validate("linear", digits, replace(QUICK, patience=patience), 3))
    whole, stopping = seen[:3], seen[3:]
    for part, apart in zip(whole, stopping, strict=True):
        measured, chosen_by = (
            {tuple(image.flatten().tolist()) for image in each.validation.inputs} for each in (part, apart)
        )
        assert chosen_by
        assert not measured & chosen_by
        assert len(apart.train) + len(apart.validation) == len(part.train)
        # What is known of the pixels comes from the rows that are trained on, alone.
        pixels = apart.train.inputs.double() / 255
        assert apart.preprocessing.mean == pytest.approx((float(pixels.mean()),), abs=1e-4)


def test_mean_and_deviation_of_the_sample() -> None:
    assert mean_and_deviation([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, math.sqrt(7 / 3)))


def test_more_folds_than_rows_of_a_class(few: Dataset) -> None:
    with pytest.raises(UsageError, match=r"folds: 50 are too many for digits, which has a class of \d+ rows"):
        next(folds(few, 50))


def test_an_ensemble_is_better_than_its_members_on_average(few: Dataset) -> None:
    names = ["mlp", "mlp", "linear"]
    together = train_ensemble(names, few, {"epochs": 20, "augment": False}, {"hidden": [32]})
    members = together.architecture.arguments["members"]
    assert [member["name"] for member in members] == names
    assert members[0]["arguments"]["hidden"] == [32]
    assert [epoch.epoch for epoch in together.history] == list(range(1, 61))
    assert isinstance(together.module, zoo.Ensemble)
    alone = [measure(each, together.preprocessing, few.test, 10) for each in together.module.members]
    assert loss(together, few) < sum(each.test_loss for each in alone) / 3
    assert accuracy(together, few) > sum(each.test_accuracy for each in alone) / 3
    assert alone[0].test_loss != alone[1].test_loss  # seeds differ


@pytest.mark.parametrize(
    ("names", "arguments", "reason"),
    [
        (["mlp"], {}, "members: a list of 1 items, where 2 to 16 belong"),
        (["mlp", "mpl"], {}, r"members\[1\].name: 'mpl' is not one of linear, .*; did you mean 'mlp'\?"),
        (["mlp", "rbm"], {}, r"members\[1\].name: 'rbm' is not one of"),
        (["linear", "linear"], {"hidden": [3]}, "hidden: none of linear, linear takes such an argument"),
        (["linear", "lenet"], {}, "at least 12 x 12 pixels"),
    ],
)
def test_ensembles_that_can_not_be(few: Dataset, names: list[str], arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        train_ensemble(names, few, {"epochs": 1}, arguments)


@pytest.mark.parametrize("name", ["autoencoder", "rbm"])
def test_what_is_learned_without_labels_gives_images_back(digits: Dataset, name: str) -> None:
    """After training, a reconstruction is nearer to its image than the mean of all images is; before, it is not."""
    images = digits.test.inputs / 255
    mean_error = float((images - digits.train.inputs.float().mean(0) / 255).square().mean())
    for epochs in (0, 15):
        trained = train(name, digits, replace(QUICK, pretrain=epochs, freeze=True))
        assert isinstance(trained.module, Pretrained)
        error = float((trained.module.reconstruct(images) - images).square().mean().detach())
        assert (error < 0.5 * mean_error) is bool(epochs)
        if epochs:
            assert accuracy(trained, digits) > 0.8
            assert set(trained.history[-1].gradient_norms) == {"output"}


def test_pretraining_is_what_lets_a_deep_belief_network_learn(digits: Dataset) -> None:
    """Hinton, Osindero and Teh (2006): a sigmoid network from small random weights hardly starts to learn."""
    options, arguments = Options(epochs=5, lr=0.003), {"hidden": [256, 256, 256]}
    without, after = (train("dbn", digits, replace(options, pretrain=epochs), arguments) for epochs in (0, 15))
    assert accuracy(without, digits) < 0.5
    assert accuracy(after, digits) > 0.9


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("mlp", {"pretrain": 3}, "pretrain: mlp learns nothing without labels; autoencoder, rbm, dbn do"),
        ("mlp", {"freeze": True}, "freeze: mlp learns nothing without labels"),
        ("mlp", {"warmup": 2}, "warmup: 2 is not between 0 and 1"),
        ("mlp", {"clip_value": -1.0}, "clip_value: -1.0"),
        ("mlp", {"label_smoothing": 1.0}, "label_smoothing: 1.0"),
        ("mlp", {"precision": "fp16"}, "precision: 'fp16' is not one of float32, bf16"),
        ("dbn", {"pretrain": -1}, "pretrain: -1"),
    ],
)
def test_options_that_can_not_be(digits: Dataset, name: str, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        train(name, digits, replace(QUICK, **change))
