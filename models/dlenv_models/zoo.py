"""The classifiers of the course, each built from a name and plain arguments.

Every module takes preprocessed float32 input (N, C, H, W) or (N, F) and returns logits (N, classes), float32.

>>> build("mlp", input_shape=[1, 28, 28], classes=10, hidden=[256])
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import nn

from dlenv.errors import UsageError
from dlenv_models import architectures, convnets
from dlenv_models.architectures import ARCHITECTURES
from dlenv_models.pretraining import Autoencoder, DeepBelief

__all__ = ["ARCHITECTURES", "Ensemble", "build"]

_ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "none": nn.Identity,  # to show that layers without one come to a single linear layer: d2l 5.1.1
}


def build(name: str, **arguments: Any) -> nn.Module:
    """The architecture ``name`` with fresh weights; see :mod:`dlenv_models.architectures` for the arguments.

    Raises ``UsageError`` naming the argument that can't be used.
    """
    try:
        complete = architectures.complete(name, arguments)
    except ValueError as error:
        raise UsageError(str(error)) from None
    init = complete.pop("init", "default")
    module: nn.Module = _BUILDERS[name](**complete)
    _initialise(module, init)
    return module


def _linear(input_shape: list[int], classes: int) -> nn.Module:
    """Softmax regression: d2l 4.4, "Softmax Regression Implementation from Scratch"."""
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), output=nn.Linear(prod(input_shape), classes)))


def _mlp(
    input_shape: list[int], classes: int, hidden: list[int], activation: str, dropout: float, batch_norm: bool
) -> nn.Module:
    """Multilayer perceptron with dropout after each hidden layer: d2l 5.2 and 5.6."""
    layers = OrderedDict[str, nn.Module](flatten=nn.Flatten())
    _add_dense(layers, [prod(input_shape), *hidden], activation, dropout, batch_norm)
    layers["output"] = nn.Linear(hidden[-1], classes)
    return nn.Sequential(layers)


def _lenet(
    input_shape: list[int], classes: int, channels: list[int], activation: str, dropout: float, batch_norm: bool
) -> nn.Module:
    """LeNet-5 (LeCun et al., 1998) as in d2l 7.6, which has sigmoids and average pooling."""
    layers = OrderedDict[str, nn.Module]()
    for i, (before, after) in enumerate(pairwise([input_shape[0], *channels]), 1):
        layers[f"conv{i}"] = nn.Conv2d(before, after, kernel_size=5, padding=2 if i == 1 else 0)
        if batch_norm:
            layers[f"conv{i}_norm"] = nn.BatchNorm2d(after)
        layers[f"conv{i}_activation"] = _ACTIVATIONS[activation]()
        layers[f"pool{i}"] = nn.AvgPool2d(2)
    layers["flatten"] = nn.Flatten()
    height, width = ((size // 2 - 4) // 2 for size in input_shape[1:])  # the first convolution is padded
    _add_dense(layers, [channels[1] * height * width, 120, 84], activation, dropout, batch_norm)
    layers["output"] = nn.Linear(84, classes)
    return nn.Sequential(layers)


def _autoencoder(input_shape: list[int], classes: int, hidden: list[int], code: int, activation: str) -> nn.Module:
    return Autoencoder(input_shape, classes, hidden, code, _ACTIVATIONS[activation])


def _ensemble(input_shape: list[int], classes: int, members: list[dict[str, Any]]) -> nn.Module:
    common = {"input_shape": input_shape, "classes": classes}
    return Ensemble([build(member["name"], **member["arguments"], **common) for member in members])


class RowReader(nn.Module):
    """Reads an image row by row, from the top, and says after the last one what it was.

    Long short-term memory: Hochreiter and Schmidhuber (1997), d2l 10.1. Images as sequences: Le, Jaitly and Hinton,
    "A Simple Way to Initialize Recurrent Networks of Rectified Linear Units" (2015), there pixel by pixel.
    """

    def __init__(self, input_shape: list[int], classes: int, hidden: list[int], dropout: float) -> None:
        super().__init__()
        channels, _, width = input_shape
        self.lstm = nn.LSTM(channels * width, hidden[0], batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden[0], classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of float32 (N, C, H, W)."""
        rows = images.transpose(1, 2).flatten(2)  # (N, H, C * W)
        states, _ = self.lstm(rows)
        logits: torch.Tensor = self.output(self.dropout(states[:, -1]))
        return logits


class Ensemble(nn.Module):
    """Soft voting: every member gives its probabilities, and their mean counts.

    The logits are the logarithm of that mean, so that whoever takes the softmax of them has the mean itself.
    Lakshminarayanan, Pritzel and Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep
    Ensembles" (2017); d2l 5.7 averages the predictions of the models of all folds in the same way.
    """

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes)."""
        votes = torch.stack([member(inputs).log_softmax(dim=1) for member in self.members])
        return votes.logsumexp(dim=0) - math.log(len(self.members))


_BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    "linear": _linear,
    "mlp": _mlp,
    "lenet": _lenet,
    "alexnet": convnets.alexnet,
    "vgg": convnets.vgg,
    "nin": convnets.nin,
    "resnet18": convnets.resnet18,
    "lstm": RowReader,
    "autoencoder": _autoencoder,
    "rbm": DeepBelief,
    "dbn": DeepBelief,
    "ensemble": _ensemble,
}


def _add_dense(
    layers: OrderedDict[str, nn.Module], sizes: list[int], activation: str, dropout: float, batch_norm: bool
) -> None:
    """Fully connected layers; batch normalisation (Ioffe and Szegedy, 2015) before the activation, as in d2l 8.5."""
    for i, (before, after) in enumerate(pairwise(sizes), 1):
        layers[f"dense{i}"] = nn.Linear(before, after)
        if batch_norm:
            layers[f"dense{i}_norm"] = nn.BatchNorm1d(after)
        layers[f"dense{i}_activation"] = _ACTIVATIONS[activation]()
        if dropout:
            layers[f"dense{i}_dropout"] = nn.Dropout(dropout)


def _initialise(module: nn.Module, init: str) -> None:
    """Xavier (Glorot and Bengio, 2010; d2l 5.4) or Kaiming (He et al., 2015) weights, zero biases."""
    if init == "default":
        return
    fill = nn.init.xavier_uniform_ if init == "xavier" else nn.init.kaiming_uniform_
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            fill(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
