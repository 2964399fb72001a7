"""What each architecture is called and which arguments it takes: facts and checks, without PyTorch.

Listing a repository needs to know whether an architecture exists and whether its arguments make sense, and must
not wait for PyTorch to be imported. :mod:`dlenv_models.zoo` builds the modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dlenv_models import _check, sizes

ACTIVATIONS = ("relu", "sigmoid", "tanh", "none")
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
    pretrained: bool = False  # can learn from rows without labels first, and give back what it made out of them
    limits: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)  # of lists: shortest, longest, largest
    later: tuple[str, ...] = ()  # options that manifests may lack, since models were published before there were these


_HIDDEN = {"hidden": (1, 32, 8192)}

ARCHITECTURES: Mapping[str, Spec] = {
    "linear": Spec("softmax regression: one linear layer", {"init": "default"}),
    "mlp": Spec(
        "multilayer perceptron",
        {"hidden": [256], "activation": "relu", "dropout": 0.0, "init": "default", "batch_norm": False},
        limits=_HIDDEN,
        later=("batch_norm",),
    ),
    "lenet": Spec(
        "LeNet-5: two convolutions, three fully connected layers",
        # The book has 6 and 16 channels; twice and more as many cost little and halve the errors.
        {"channels": [16, 32], "activation": "relu", "dropout": 0.0, "init": "default", "batch_norm": False},
        images_only=True,
        smallest=12,  # 12 -> pool 6 -> convolution 2 -> pool 1
        limits={"channels": (2, 2, 256)},
        later=("batch_norm",),
    ),
    "alexnet": Spec(
        "AlexNet with a stem for small images",
        # A quarter of the paper's channels, an eighth of its fully connected units.
        {"channels": [24, 64, 96, 64, 64], "hidden": [512, 512], "dropout": 0.5, "init": "default"},
        images_only=True,
        smallest=15,  # 15 -> pool 7 -> pool 3 -> pool 1
        deep=True,
        limits={"channels": (5, 5, 512), "hidden": (2, 2, 4096)},
    ),
    "vgg": Spec(
        "VGG-11 with batch normalisation, for small images",
        # A quarter of the paper's channels, as the book takes for Fashion-MNIST (d2l 8.2.3).
        {"channels": [16, 32, 64, 128, 128], "hidden": [256, 256], "dropout": 0.5, "init": "default"},
        images_only=True,
        smallest=8,
        deep=True,
        smallest_batch=2,  # batch normalisation has no variance of one row
        limits={"channels": (5, 5, 512), "hidden": (2, 2, 4096)},
    ),
    "nin": Spec(
        "network in network: no fully connected layer",
        {"channels": [32, 64, 96], "dropout": 0.5, "init": "kaiming"},
        images_only=True,
        smallest=7,  # 7 -> pool 3 -> pool 1
        deep=True,
        limits={"channels": (3, 3, 512)},
    ),
    "resnet18": Spec(
        "ResNet-18 with a stem for small images",
        {"dropout": 0.0, "init": "default"},
        images_only=True,
        smallest=8,
        deep=True,
        smallest_batch=2,
    ),
    "lstm": Spec(
        "long short-term memory that reads an image row by row",
        {"hidden": [128], "dropout": 0.0},
        images_only=True,
        limits={"hidden": (1, 1, 1024)},
    ),
    "autoencoder": Spec(
        "autoencoder, and a linear classifier on its code",
        {"hidden": [256], "code": 32, "activation": "relu", "init": "default"},
        limits=_HIDDEN,
        images_only=True,
        pretrained=True,
    ),
    "rbm": Spec(
        "restricted Boltzmann machine, and a linear classifier on its hidden units",
        {"hidden": [256]},
        limits={"hidden": (1, 1, 8192)},
        images_only=True,
        pretrained=True,
    ),
    "dbn": Spec(
        "deep belief network: restricted Boltzmann machines one upon the other, and a supervised layer",
        {"hidden": [256, 256]},
        limits={"hidden": (1, 8, 8192)},
        images_only=True,
        pretrained=True,
    ),
    "ensemble": Spec(
        "soft voting: the mean of several networks' probabilities",
        {"members": [{"name": "mlp", "arguments": {}}, {"name": "mlp", "arguments": {}}]},
    ),
}

# Members see one and the same input, so those that want it otherwise are none; nor is there a vote of votes.
MEMBERS = tuple(name for name, spec in ARCHITECTURES.items() if not spec.pretrained and name != "ensemble")
MAX_MEMBERS = 16


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
    checked: dict[str, Any] = {}
    for key, value in {**spec.options, **dict(arguments)}.items():
        if key in spec.limits:
            checked[key] = _sizes(value, f"{where}{key}", *spec.limits[key])
        elif key != "members":
            checked[key] = _CHECKS[key](value, f"{where}{key}")
    _check_shape(name, spec, checked["input_shape"], f"{where}input_shape")
    if "members" in spec.options:
        common = {key: checked[key] for key in ("input_shape", "classes")}
        checked["members"] = _members(arguments.get("members", spec.options["members"]), common, f"{where}members")
    _check_size(name, checked, where)
    return checked


def smallest_batch(name: str, arguments: Mapping[str, Any]) -> int:
    """How many rows must be trained on at once: two where batch normalisation compares them."""
    return max(ARCHITECTURES[name].smallest_batch, 2 if arguments.get("batch_norm") else 1)


def parameters(name: str, arguments: Mapping[str, Any]) -> int:
    """How many parameters the architecture has with these (complete) arguments."""
    return sizes.tally(name, arguments).parameters


def largest_activation(name: str, arguments: Mapping[str, Any]) -> int:
    """How many elements the largest tensor has through which one row passes, with these (complete) arguments.

    The row itself counts, as does what each layer gives; computed from the sizes alone, without building a module.
    A batch takes this times its rows, in float32, for that tensor; PyTorch keeps a few such tensors at a time.
    """
    return sizes.tally(name, arguments).largest


def _check_size(name: str, arguments: Mapping[str, Any], where: str) -> None:
    if (count := parameters(name, arguments)) > MAX_PARAMETERS:
        raise ValueError(f"{where.rstrip('.') or name}: {count:,} parameters; at most {MAX_PARAMETERS:,} are allowed")
    if (count := largest_activation(name, arguments)) > MAX_ACTIVATION:
        levers = " or fewer channels" if "channels" in arguments else ""
        raise ValueError(
            f"{where}input_shape: {arguments['input_shape']} gives {name} a tensor of {count:,} numbers for one row, "
            f"but at most {MAX_ACTIVATION:,} are allowed; take a smaller input{levers}"
        )


def _members(value: object, common: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """The networks of an ensemble, each with all of its own arguments; what they have in common is not repeated."""
    members = []
    for i, each in enumerate(_check.sequence(value, where, 2, MAX_MEMBERS)):
        member = _check.mapping(each, f"{where}[{i}]", ("name", "arguments"))
        name = _check.choice(member["name"], f"{where}[{i}].name", MEMBERS)
        given = member["arguments"]
        if not isinstance(given, Mapping) or not common.keys().isdisjoint(given):
            raise ValueError(f"{where}[{i}].arguments: not an object without {' and '.join(common)}")
        arguments = complete(name, {**given, **common}, f"{where}[{i}].arguments.")
        members.append({"name": name, "arguments": {k: v for k, v in arguments.items() if k not in common}})
    return members


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
        raise ValueError(f"{where}: {_check.show(list(sizes))} is neither [features] nor [channels, height, width]")
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
    "code": lambda value, where: _check.integer(value, where, 1, 8192),
    "activation": lambda value, where: _check.choice(value, where, ACTIVATIONS),
    "dropout": lambda value, where: _check.number(value, where, 0, 0.95),
    "init": lambda value, where: _check.choice(value, where, INITS),
    "batch_norm": lambda value, where: _check.boolean(value, where),
}
