"""How large each architecture is, counted from its arguments alone: no PyTorch, and nothing is allocated.

A manifest from a stranger says how many channels a network has. Here that is added up before the network is built.
Each function follows its namesake in :mod:`dlenv_models.zoo` layer by layer; a test compares both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["Tally", "tally"]


class Tally:
    """Follows one row through the layers: its shape now, the parameters so far, and the largest tensor so far."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = list(shape)
        self.parameters = 0
        self.largest = math.prod(shape)

    def conv(self, channels: int, kernel: int, padding: int = 0) -> None:
        """A convolution of stride 1, with biases."""
        before, *sizes = self.shape
        self.parameters += channels * (before * kernel * kernel + 1)
        self._pass([channels, *(size + 2 * padding - kernel + 1 for size in sizes)])

    def pool(self, kernel: int, stride: int = 2, ceil: bool = False) -> None:
        """A pooling; ``ceil``: a window that reaches over the edge counts."""
        rest = stride - 1 if ceil else 0
        self._pass([self.shape[0], *((size - kernel + rest) // stride + 1 for size in self.shape[1:])])

    def dense(self, *sizes: int, norm: bool = False) -> None:
        """Fully connected layers, from all that there is to so many values each."""
        for size in sizes:
            self.parameters += (math.prod(self.shape) + 1) * size
            self._pass([size])
            if norm:
                self.norm()

    def norm(self) -> None:
        """Batch normalisation: a scale and a shift for each channel."""
        self.parameters += 2 * self.shape[0]

    def _pass(self, shape: list[int]) -> None:
        self.shape = shape
        self.largest = max(self.largest, math.prod(shape))


def tally(name: str, arguments: Mapping[str, Any]) -> Tally:
    """What the architecture ``name`` comes to with these (complete) arguments."""
    count = Tally(arguments["input_shape"])
    _COUNTS[name](count, arguments)
    return count


def _linear(count: Tally, arguments: Mapping[str, Any]) -> None:
    count.dense(arguments["classes"])


def _mlp(count: Tally, arguments: Mapping[str, Any]) -> None:
    count.dense(*arguments["hidden"], norm=arguments["batch_norm"])
    count.dense(arguments["classes"])


def _lenet(count: Tally, arguments: Mapping[str, Any]) -> None:
    for channels, padding in zip(arguments["channels"], (2, 0), strict=True):
        count.conv(channels, 5, padding)
        if arguments["batch_norm"]:
            count.norm()
        count.pool(2)
    count.dense(120, 84, norm=arguments["batch_norm"])
    count.dense(arguments["classes"])


def _alexnet(count: Tally, arguments: Mapping[str, Any]) -> None:
    for i, (channels, kernel) in enumerate(zip(arguments["channels"], (5, 5, 3, 3, 3), strict=True)):
        count.conv(channels, kernel, padding=kernel // 2)
        if i in (0, 1, 4):
            count.pool(3)
    count.dense(*arguments["hidden"], arguments["classes"])


def _vgg(count: Tally, arguments: Mapping[str, Any]) -> None:
    for channels, convolutions in zip(arguments["channels"], (1, 1, 2, 2, 2), strict=True):
        for _ in range(convolutions):
            count.conv(channels, 3, padding=1)
            count.norm()
        count.pool(2, ceil=True)
    count.shape = [count.shape[0], 1, 1]  # the mean over all pixels
    count.dense(*arguments["hidden"], arguments["classes"])


def _nin(count: Tally, arguments: Mapping[str, Any]) -> None:
    for channels, kernel in zip([*arguments["channels"], arguments["classes"]], (5, 5, 3, 3), strict=True):
        count.conv(channels, kernel, padding=kernel // 2)
        count.conv(channels, 1)
        count.conv(channels, 1)
        if kernel == 5:
            count.pool(3)


def _resnet18(count: Tally, arguments: Mapping[str, Any]) -> None:
    # He et al. 2015, table 1, with the 3x3 stem: counted from torchvision's module; the two variable ends are added.
    channels, *sizes = arguments["input_shape"]
    count.parameters = 11_167_104 + 64 * 9 * channels + 513 * arguments["classes"]
    # The stem keeps height and width; each later stage has twice the channels on a quarter of the pixels.
    count.largest = max(count.largest, 64 * math.prod(sizes), arguments["classes"])


def _lstm(count: Tally, arguments: Mapping[str, Any]) -> None:
    channels, height, width = arguments["input_shape"]
    (hidden,) = arguments["hidden"]
    # Three gates and the new content, each from the row and from what was kept, with two biases as in cuDNN.
    count.parameters = 4 * hidden * (channels * width + hidden + 2)
    count.largest = max(count.largest, height * hidden)  # what it gives after each row
    count.shape = [hidden]
    count.dense(arguments["classes"])


def _autoencoder(count: Tally, arguments: Mapping[str, Any]) -> None:
    pixels, hidden, code = count.largest, arguments["hidden"], arguments["code"]
    count.dense(*hidden, code)
    count.dense(*reversed(hidden), pixels)
    count.shape = [code]
    count.dense(arguments["classes"])


def _dbn(count: Tally, arguments: Mapping[str, Any]) -> None:
    count.parameters = math.prod(count.shape)  # the biases of the visible units of the first machine
    count.dense(*arguments["hidden"])
    count.parameters += sum(arguments["hidden"][:-1])  # and of the other machines'
    count.dense(arguments["classes"])


def _ensemble(count: Tally, arguments: Mapping[str, Any]) -> None:
    common = {key: arguments[key] for key in ("input_shape", "classes")}
    for member in arguments["members"]:
        each = tally(member["name"], {**member["arguments"], **common})
        count.parameters += each.parameters
        count.largest = max(count.largest, each.largest)


_COUNTS: Mapping[str, Callable[[Tally, Mapping[str, Any]], None]] = {
    "linear": _linear,
    "mlp": _mlp,
    "lenet": _lenet,
    "alexnet": _alexnet,
    "vgg": _vgg,
    "nin": _nin,
    "resnet18": _resnet18,
    "lstm": _lstm,
    "autoencoder": _autoencoder,
    "rbm": _dbn,  # of one machine
    "dbn": _dbn,
    "ensemble": _ensemble,
}
