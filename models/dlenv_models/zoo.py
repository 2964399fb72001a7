"""The classifiers of the course, each built from a name and plain arguments.

Every module takes preprocessed float32 input (N, C, H, W) or (N, F) and returns logits (N, classes), float32.

>>> build("mlp", input_shape=[1, 28, 28], classes=10, hidden=[256])
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import pairwise
from math import prod
from typing import Any

from torch import nn

from dlenv.errors import UsageError
from dlenv_models import architectures
from dlenv_models.architectures import ARCHITECTURES

__all__ = ["ARCHITECTURES", "build"]

_ACTIVATIONS: Mapping[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


def build(name: str, **arguments: Any) -> nn.Module:
    """The architecture ``name`` with fresh weights; see :mod:`dlenv_models.architectures` for the arguments.

    Raises ``UsageError`` naming the argument that can't be used.
    """
    try:
        complete = architectures.complete(name, arguments)
    except ValueError as error:
        raise UsageError(str(error)) from None
    init = complete.pop("init")
    module: nn.Module = _BUILDERS[name](**complete)
    _initialise(module, init)
    return module


def _linear(input_shape: list[int], classes: int) -> nn.Module:
    """Softmax regression: d2l 4.4, "Softmax Regression Implementation from Scratch"."""
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), output=nn.Linear(prod(input_shape), classes)))


def _mlp(input_shape: list[int], classes: int, hidden: list[int], activation: str, dropout: float) -> nn.Module:
    """Multilayer perceptron with dropout after each hidden layer: d2l 5.2 and 5.6."""
    layers = OrderedDict[str, nn.Module](flatten=nn.Flatten())
    _add_dense(layers, [prod(input_shape), *hidden], activation, dropout)
    layers["output"] = nn.Linear(hidden[-1], classes)
    return nn.Sequential(layers)


def _lenet(input_shape: list[int], classes: int, channels: list[int], activation: str, dropout: float) -> nn.Module:
    """LeNet-5 (LeCun et al., 1998) as in d2l 7.6, which has sigmoids and average pooling."""
    first, second = channels
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(input_shape[0], first, kernel_size=5, padding=2),
        conv1_activation=_ACTIVATIONS[activation](),
        pool1=nn.AvgPool2d(2),
        conv2=nn.Conv2d(first, second, kernel_size=5),
        conv2_activation=_ACTIVATIONS[activation](),
        pool2=nn.AvgPool2d(2),
        flatten=nn.Flatten(),
    )
    _add_dense(layers, [architectures.lenet_features(input_shape, second), 120, 84], activation, dropout)
    layers["output"] = nn.Linear(84, classes)
    return nn.Sequential(layers)


def _resnet18(input_shape: list[int], classes: int, dropout: float) -> nn.Module:
    """torchvision's ResNet-18 (He et al., 2015; d2l 8.6) with the paper's CIFAR stem: 3x3, stride 1, no pooling."""
    from torchvision.models import resnet18  # here, so that serving the other models does not need torchvision

    module: nn.Module = resnet18(weights=None, num_classes=classes)
    classifier: nn.Module = module.get_submodule("fc")
    module.conv1 = nn.Conv2d(input_shape[0], 64, kernel_size=3, padding=1, bias=False)
    module.maxpool = nn.Identity()
    if dropout:
        module.fc = nn.Sequential(OrderedDict[str, nn.Module](dropout=nn.Dropout(dropout), output=classifier))
    return module


_BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    "linear": _linear,
    "mlp": _mlp,
    "lenet": _lenet,
    "resnet18": _resnet18,
}


def _add_dense(layers: OrderedDict[str, nn.Module], sizes: list[int], activation: str, dropout: float) -> None:
    for i, (before, after) in enumerate(pairwise(sizes), 1):
        layers[f"dense{i}"] = nn.Linear(before, after)
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
