"""What each architecture is called and which arguments it takes: facts and checks, without PyTorch.

Listing a repository needs to know whether an architecture exists and whether its arguments make sense, and must
not wait for PyTorch to be imported. :mod:`dlenv_models.zoo` builds the modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from dlenv_models import _check

ACTIVATIONS = ("relu", "sigmoid", "tanh")
INITS = ("default", "xavier", "kaiming")

MAX_CLASSES = 1000
MAX_PIXELS = 1024 * 1024  # of one input image; larger ones belong to other architectures
MAX_FEATURES = 65_536
MAX_PARAMETERS = 64_000_000  # 256 MB of float32: checked before anything is allocated for an untrusted manifest
# 64 MiB of float32 for one row, which a batch multiplies: resnet18 on 512 x 512 pixels, lenet with 16 channels on any.
MAX_ACTIVATION = 16 * 1024 * 1024


@dataclass(frozen=True)
class Spec:
    """One architecture: what it is and the options it takes beside ``input_shape`` and ``classes``."""

    summary: str
    options: Mapping[str, Any] = field(default_factory=dict)
    images_only: bool = False
    smallest: int = 1  # pixels in height and width
    deep: bool = False  # operators large enough to be worth several CPU threads
    smallest_batch: int = 1  # rows to train on at once


ARCHITECTURES: Mapping[str, Spec] = {
    "linear": Spec("softmax regression: one linear layer", {"init": "default"}),
    "mlp": Spec(
        "multilayer perceptron",
        {"hidden": [256], "activation": "relu", "dropout": 0.0, "init": "default"},
    ),
    "lenet": Spec(
        "LeNet-5: two convolutions, three fully connected layers",
        # The book has 6 and 16 channels; twice and more as many cost little and halve the errors.
        {"channels": [16, 32], "activation": "relu", "dropout": 0.0, "init": "default"},
        images_only=True,
        smallest=12,  # 12 -> pool 6 -> convolution 2 -> pool 1
    ),
    "resnet18": Spec(
        "ResNet-18 with a stem for small images",
        {"dropout": 0.0, "init": "default"},
        images_only=True,
        smallest=8,
        deep=True,
        smallest_batch=2,  # batch normalisation has no variance of one row
    ),
}


def complete(name: str, arguments: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Every argument of the architecture ``name``: those given, checked, and defaults for the others.

    ``where`` prefixes the keys that an error names, such as ``"architecture.arguments."``.

    Raises ``ValueError`` naming the argument and its value, also where the whole would be too large.
    """
    spec = ARCHITECTURES[_check.choice(name, f"{where}name" if where else "architecture", ARCHITECTURES)]
    known = ["input_shape", "classes", *spec.options]
    for key in arguments:
        if key not in known:
            hint = _check.did_you_mean(key, known)
            raise ValueError(f"{where}{key}: {name} takes no such argument, but {', '.join(known)}{hint}")
    for key in ("input_shape", "classes"):
        if key not in arguments:
            raise ValueError(f"{where}{key} is missing")
    checked = {key: _CHECKS[key](value, f"{where}{key}") for key, value in {**spec.options, **dict(arguments)}.items()}
    _check_shape(name, spec, checked["input_shape"], f"{where}input_shape")
    if (count := parameters(name, checked)) > MAX_PARAMETERS:
        raise ValueError(f"{where.rstrip('.') or name}: {count:,} parameters; at most {MAX_PARAMETERS:,} are allowed")
    if (count := largest_activation(name, checked)) > MAX_ACTIVATION:
        levers = " or fewer channels" if "channels" in checked else ""
        raise ValueError(
            f"{where}input_shape: {checked['input_shape']} gives {name} a tensor of {count:,} numbers for one row, "
            f"but at most {MAX_ACTIVATION:,} are allowed; take a smaller input{levers}"
        )
    return checked


def parameters(name: str, arguments: Mapping[str, Any]) -> int:
    """How many parameters the architecture has with these (complete) arguments."""
    shape, classes = arguments["input_shape"], arguments["classes"]
    if name == "linear":
        return _dense([math.prod(shape), classes])
    if name == "mlp":
        return _dense([math.prod(shape), *arguments["hidden"], classes])
    if name == "lenet":
        first, second = arguments["channels"]
        convolutions: int = first * (shape[0] * 25 + 1) + second * (first * 25 + 1)
        return convolutions + _dense([lenet_features(shape, second), 120, 84, classes])
    # He et al. 2015, table 1, with the 3x3 stem: counted from torchvision's module; the two variable ends are added.
    fixed = 11_167_104
    return fixed + 64 * 9 * int(shape[0]) + 513 * int(classes)


def largest_activation(name: str, arguments: Mapping[str, Any]) -> int:
    """How many elements the largest tensor has through which one row passes, with these (complete) arguments.

    The row itself counts, as does what each layer gives; computed from the sizes alone, without building a module.
    A batch takes this times its rows, in float32, for that tensor; PyTorch keeps a few such tensors at a time.
    """
    shape, classes = arguments["input_shape"], arguments["classes"]
    sizes = [math.prod(shape), classes]
    if name == "mlp":
        sizes += arguments["hidden"]
    elif name == "lenet":
        first, second = arguments["channels"]
        # A pooling gives less than the convolution before it, and the dense layers less than the smallest image.
        sizes += [first * math.prod(shape[1:]), second * math.prod(size // 2 - 4 for size in shape[1:])]
    elif name == "resnet18":
        # The stem keeps height and width; each later stage has twice the channels on a quarter of the pixels.
        sizes += [64 * math.prod(shape[1:])]
    return int(max(sizes))


def lenet_features(input_shape: Sequence[int], channels: int) -> int:
    """How many values leave LeNet's second pooling: 5x5 convolutions (the first padded), halved after each."""
    height, width = ((size // 2 - 4) // 2 for size in input_shape[1:])
    return channels * height * width


def _dense(sizes: Sequence[int]) -> int:
    return sum((before + 1) * after for before, after in pairwise(sizes))


def _check_shape(name: str, spec: Spec, shape: Sequence[int], where: str) -> None:
    if spec.images_only and len(shape) != 3:
        raise ValueError(f"{where}: {name} takes images [channels, height, width], not rows of shape {list(shape)}")
    if spec.images_only and min(shape[1:]) < spec.smallest:
        small = spec.smallest
        raise ValueError(f"{where}: {name} needs images of at least {small} x {small} pixels, not {list(shape)}")


def _input_shape(value: object, where: str) -> list[int]:
    sizes = _check.sequence(value, where, 1, 3)
    if len(sizes) == 1:
        return [_check.integer(sizes[0], f"{where}[0]", 1, MAX_FEATURES)]
    if len(sizes) == 2:
        raise ValueError(f"{where}: {list(sizes)} is neither [features] nor [channels, height, width]")
    if _check.integer(sizes[0], f"{where}[0]", 1, 3) == 2:
        raise ValueError(f"{where}[0]: 2 channels; images have 1 (grey) or 3 (RGB)")
    height, width = (_check.integer(size, f"{where}[{i}]", 1, 4096) for i, size in enumerate(sizes[1:], 1))
    if height * width > MAX_PIXELS:
        raise ValueError(f"{where}: {height} x {width} pixels; at most {MAX_PIXELS:,} are allowed")
    return list(sizes)


def _sizes(value: object, where: str, shortest: int, longest: int, most: int) -> list[int]:
    sizes = _check.sequence(value, where, shortest, longest)
    return [_check.integer(size, f"{where}[{i}]", 1, most) for i, size in enumerate(sizes)]


_CHECKS: Mapping[str, Callable[[object, str], Any]] = {
    "input_shape": _input_shape,
    "classes": lambda value, where: _check.integer(value, where, 2, MAX_CLASSES),
    "hidden": lambda value, where: _sizes(value, where, 1, 8, 8192),
    "channels": lambda value, where: _sizes(value, where, 2, 2, 256),
    "activation": lambda value, where: _check.choice(value, where, ACTIVATIONS),
    "dropout": lambda value, where: _check.number(value, where, 0, 0.95),
    "init": lambda value, where: _check.choice(value, where, INITS),
}
