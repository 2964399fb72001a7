from __future__ import annotations

import doctest
from math import prod
from typing import Any

import pytest
import torch
from torch import nn

from dlenv.errors import UsageError
from dlenv_models.architectures import ARCHITECTURES, MAX_ACTIVATION, complete, largest_activation, parameters
from dlenv_models.pretraining import Pretrained
from dlenv_models.zoo import Ensemble, build


def mlp(**arguments: Any) -> dict[str, Any]:
    """A member of an ensemble."""
    return {"name": "mlp", "arguments": arguments}


CASES: list[tuple[str, list[int], dict[str, Any]]] = [
    ("linear", [2], {}),
    ("linear", [1, 28, 28], {"init": "xavier"}),
    ("mlp", [2], {"hidden": [100], "activation": "tanh"}),
    ("mlp", [1, 28, 28], {"hidden": [128, 64], "dropout": 0.5, "init": "kaiming"}),
    ("lenet", [1, 28, 28], {}),
    ("lenet", [1, 28, 28], {"channels": [6, 16], "activation": "sigmoid", "init": "xavier", "dropout": 0.2}),
    ("lenet", [3, 12, 17], {}),
    ("resnet18", [3, 32, 32], {}),
    ("resnet18", [1, 8, 8], {"dropout": 0.1, "init": "kaiming"}),
    ("mlp", [2], {"hidden": [20] * 32, "batch_norm": True}),
    ("lenet", [1, 28, 28], {"batch_norm": True}),
    ("alexnet", [1, 28, 28], {}),
    ("alexnet", [3, 32, 15], {"channels": [8, 9, 10, 11, 12], "hidden": [20, 30], "dropout": 0.0}),
    ("vgg", [1, 28, 28], {}),
    ("vgg", [3, 8, 33], {"channels": [3, 4, 5, 6, 7], "hidden": [20, 30]}),
    ("nin", [1, 28, 28], {}),
    ("nin", [3, 7, 32], {"channels": [5, 6, 7]}),
    ("lstm", [1, 28, 28], {}),
    ("lstm", [3, 5, 9], {"hidden": [16], "dropout": 0.5}),
    ("autoencoder", [1, 28, 28], {}),
    ("autoencoder", [3, 8, 9], {"hidden": [20, 30], "code": 5, "activation": "tanh"}),
    ("rbm", [1, 28, 28], {}),
    ("dbn", [3, 8, 9], {"hidden": [20, 30, 40]}),
    ("ensemble", [2], {}),
    (
        "ensemble",
        [1, 28, 28],
        {"members": [{"name": "lenet", "arguments": {}}, {"name": "linear", "arguments": {"init": "xavier"}}]},
    ),
]


@pytest.mark.parametrize(("name", "shape", "options"), CASES)
def test_builds_logits_and_counts_its_parameters(name: str, shape: list[int], options: dict[str, Any]) -> None:
    arguments = {"input_shape": shape, "classes": 7, **options}
    module = build(name, **arguments).eval()
    logits = module(torch.zeros(3, *shape))
    assert logits.shape == (3, 7)
    assert logits.dtype == torch.float32
    counted = sum(weights.numel() for weights in module.parameters())
    assert parameters(name, complete(name, arguments)) == counted


def test_every_architecture_is_covered() -> None:
    assert {name for name, _, _ in CASES} == set(ARCHITECTURES)


def rows_of(output: Any) -> torch.Tensor:
    """What a layer gives for the rows of a batch; an LSTM gives its last state beside it."""
    tensor = output[0] if isinstance(output, tuple) else output
    assert isinstance(tensor, torch.Tensor)
    return tensor


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        *CASES,
        ("vgg", [3, 64, 48], {"channels": [1, 1, 1, 1, 1], "hidden": [1, 1]}),  # the input
        ("nin", [1, 7, 7], {"channels": [1, 1, 1]}),
        ("lstm", [1, 40, 2], {"hidden": [100]}),  # the states
        ("linear", [3], {}),  # the logits are the largest
        ("mlp", [5000], {"hidden": [300, 4]}),  # the input
        ("mlp", [2], {"hidden": [10, 400, 20]}),
        ("lenet", [3, 64, 48], {"channels": [1, 1]}),  # the input
        ("lenet", [1, 40, 41], {"channels": [1, 256]}),  # the second convolution
        ("lenet", [1, 13, 13], {"channels": [1, 2]}),
        ("lenet", [3, 12, 12], {"channels": [256, 1]}),
        ("lenet", [1, 12, 12], {"channels": [1, 130], "dropout": 0.5}),
        ("resnet18", [3, 9, 8], {}),
        ("resnet18", [1, 15, 33], {}),
        ("resnet18", [3, 224, 224], {}),
    ],
)
def test_the_largest_activation_is_that_of_the_real_module(
    name: str, shape: list[int], options: dict[str, Any]
) -> None:
    arguments = {"input_shape": shape, "classes": 7, **options}
    module = build(name, **arguments).eval()
    seen = [prod(shape)]
    for part in module.modules():
        part.register_forward_hook(lambda _module, _inputs, output: seen.append(rows_of(output)[0].numel()))
    with torch.inference_mode():
        module(torch.zeros(2, *shape))
    assert len(seen) > 2
    assert largest_activation(name, complete(name, arguments)) == max(seen)


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("resnet18", [3, 512, 512], {}),
        ("lenet", [3, 1024, 1024], {"channels": [16, 1]}),
        ("lenet", [3, 224, 224], {"channels": [256, 8]}),
    ],
)
def test_large_but_sensible_activations_are_allowed(name: str, shape: list[int], options: dict[str, Any]) -> None:
    arguments = complete(name, {"input_shape": shape, "classes": 10, **options})
    assert largest_activation(name, arguments) <= MAX_ACTIVATION


@pytest.mark.parametrize(
    ("name", "shape", "options", "reason"),
    [
        ("resnet18", [3, 1024, 1024], {}, r"67,108,864 numbers for one row, .* 16,777,216 .*; take a smaller input$"),
        ("resnet18", [1, 512, 513], {}, "16,809,984 numbers"),
        ("lenet", [1, 1024, 1024], {"channels": [256, 1]}, r"268,435,456 numbers.*smaller input or fewer channels$"),
    ],
)
def test_an_activation_that_would_fill_the_memory_is_refused(
    name: str, shape: list[int], options: dict[str, Any], reason: str
) -> None:
    """Few parameters, so only this bound stands between an untrusted manifest and a gibibyte for each row."""
    with pytest.raises(ValueError, match=rf"a\.input_shape: .*{shape[1]}, {shape[2]}\] gives {name} .*{reason}"):
        complete(name, {"input_shape": shape, "classes": 10, **options}, "a.")


def test_lenet_of_the_book() -> None:
    module = build("lenet", input_shape=[1, 28, 28], classes=10, channels=[6, 16], activation="sigmoid")
    kinds = [type(part) for part in module.children()]
    assert kinds.count(nn.Sigmoid) == 4
    assert kinds.count(nn.AvgPool2d) == 2
    assert sum(weights.numel() for weights in module.parameters()) == 61_706  # d2l 7.6 and LeCun et al.


def test_resnet_keeps_small_images_large() -> None:
    module = build("resnet18", input_shape=[3, 32, 32], classes=10).eval()
    sizes = []
    module.get_submodule("layer1").register_forward_hook(lambda *hook: sizes.append(tuple(hook[2].shape[2:])))
    module(torch.zeros(1, 3, 32, 32))
    assert sizes == [(32, 32)]


def test_dropout_stands_after_each_fully_connected_layer_only() -> None:
    module = build("lenet", input_shape=[1, 28, 28], classes=10, dropout=0.3)
    names = [name for name, part in module.named_children() if isinstance(part, nn.Dropout)]
    assert names == ["dense1_dropout", "dense2_dropout"]


def test_initialisations_differ_in_spread() -> None:
    spread = {}
    for init in ("default", "xavier", "kaiming"):
        torch.manual_seed(0)
        layer = build("mlp", input_shape=[400], classes=10, hidden=[400], init=init).get_submodule("dense1")
        assert isinstance(layer, nn.Linear)
        spread[init] = float(layer.weight.detach().std())
    # Uniform: 1/sqrt(3 n), sqrt(1/n) for n inputs and n outputs, sqrt(2/n).
    assert spread == pytest.approx({"default": 0.0289, "xavier": 0.05, "kaiming": 0.0707}, rel=0.02)


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("lenett", {}, r"'lenett' is not one of .*; did you mean 'lenet'\?"),
        ("linear", {"dropout": 0.5}, "dropout: linear takes no such argument"),
        ("mlp", {"hiden": [3]}, r"hiden: .*did you mean 'hidden'"),
        ("mlp", {"hidden": [0]}, r"hidden\[0\]: 0 is not between 1 and 8192"),
        ("mlp", {"hidden": []}, "hidden: a list of 0 items"),
        ("mlp", {"dropout": 1.0}, "dropout: 1.0"),
        ("mlp", {"dropout": float("nan")}, "dropout: nan"),
        ("mlp", {"activation": "ReLU"}, "activation: 'ReLU' is not one of relu, sigmoid, tanh"),
        ("mlp", {"classes": 1}, "classes: 1 is not between 2"),
        ("mlp", {"input_shape": [2, 8, 8]}, "2 channels"),
        ("lenet", {"input_shape": [2]}, "lenet takes images"),
        ("lenet", {"input_shape": [1, 8, 8]}, "at least 12 x 12 pixels"),
        ("lenet", {"channels": [6]}, "channels: a list of 1 items, where 2 belong"),
        ("mlp", {"batch_norm": 1}, "batch_norm: 1 is neither true nor false"),
        ("mlp", {"hidden": [4] * 33}, "hidden: a list of 33 items, where 1 to 32 belong"),
        ("lstm", {"hidden": [1025]}, r"hidden\[0\]: 1025 is not between 1 and 1024"),
        ("lstm", {"hidden": [8, 8]}, "hidden: a list of 2 items, where 1 belong"),
        ("alexnet", {"input_shape": [1, 14, 28]}, "at least 15 x 15 pixels"),
        ("nin", {"input_shape": [1, 6, 28]}, "at least 7 x 7 pixels"),
        ("vgg", {"channels": [1, 2, 3, 4, 513]}, r"channels\[4\]: 513"),
        ("vgg", {"channels": [512] * 5, "input_shape": [3, 256, 256]}, "33,554,432 numbers for one row"),
        ("autoencoder", {"code": 0}, "code: 0 is not between 1 and 8192"),
        ("autoencoder", {"input_shape": [2]}, "autoencoder takes images"),
        ("dbn", {"hidden": [8192] * 8}, "parameters; at most"),
        ("ensemble", {"members": []}, "members: a list of 0 items, where 2 to 16 belong"),
        ("ensemble", {"members": [mlp()] * 17}, "members: a list of 17 items"),
        ("ensemble", {"members": [mlp(), 3]}, r"members\[1\]: 3 is not an object"),
        ("ensemble", {"members": [mlp(), {"name": "mlp"}]}, r"members\[1\]: the key 'arguments' is missing"),
        ("ensemble", {"members": [mlp(), {"name": "ensemble", "arguments": {}}]}, r"members\[1\].name: 'ensemble'"),
        ("ensemble", {"members": [mlp(), {"name": "rbm", "arguments": {}}]}, r"members\[1\].name: 'rbm'"),
        ("ensemble", {"members": [mlp(), mlp(classes=3)]}, r"members\[1\].arguments: not an object without"),
        ("ensemble", {"members": [mlp(), mlp(hidden=[0])]}, r"members\[1\].arguments.hidden\[0\]: 0 is not between"),
        ("ensemble", {"members": [mlp(hidden=[8192])] * 16}, "parameters; at most 64,000,000"),
    ],
)
def test_bad_arguments_are_named(name: str, arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        build(name, **{"input_shape": [1, 28, 28], "classes": 10, **arguments})


def test_an_ensemble_gives_the_mean_of_its_members_probabilities() -> None:
    members = [mlp(hidden=[5]), {"name": "linear", "arguments": {}}]
    module = build("ensemble", input_shape=[3], classes=4, members=members).eval()
    assert isinstance(module, Ensemble)
    rows = torch.randn(6, 3)
    votes = torch.stack([member(rows).softmax(dim=1) for member in module.members])
    assert torch.allclose(module(rows).softmax(dim=1), votes.mean(0), atol=1e-6)
    assert not torch.allclose(votes[0], votes[1], atol=0.01)


def test_an_lstm_reads_the_rows_in_order() -> None:
    module = build("lstm", input_shape=[1, 8, 8], classes=3).eval()
    images = torch.rand(2, 1, 8, 8)
    assert not torch.allclose(module(images), module(images.flip(2)), atol=1e-4)


@pytest.mark.parametrize("name", ["autoencoder", "rbm", "dbn"])
def test_reconstructions_have_the_shape_of_the_images(name: str) -> None:
    module = build(name, input_shape=[3, 9, 8], classes=3)
    assert isinstance(module, Pretrained)
    images = module.reconstruct(torch.rand(2, 3, 9, 8))
    assert images.shape == (2, 3, 9, 8)
    assert 0 <= images.min() <= images.max() <= 1


def test_the_example_in_the_docstring_runs() -> None:
    import dlenv_models.zoo

    (example,) = doctest.DocTestFinder().find(dlenv_models.zoo, "zoo", globs={"build": build})[:1]
    assert example.examples
    for case in example.examples:
        assert isinstance(eval(case.source, {"build": build}), nn.Module)
