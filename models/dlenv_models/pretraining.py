"""Networks that learn from rows without labels first: autoencoder, restricted Boltzmann machine, deep belief network.

Each takes pixels 0..1, and can give back the image that it has made out. In training, :func:`pretrain` comes first;
then a linear layer upon what was learned is trained with labels, alone or together with all that lies below.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["Autoencoder", "DeepBelief", "Pretrained", "pretrain"]

BATCH = 64
ADAM_LR = 0.001  # of the autoencoder: Kingma and Ba (2014), algorithm 1
# Of the machines: Hinton, "A Practical Guide to Training Restricted Boltzmann Machines" (2010), sections 7 to 10.
CD_LR = 0.1
MOMENTUM = (0.5, 0.9)  # at first, and after five epochs
WEIGHT_COST = 0.0002
DEVIATION = 0.01  # of the weights at the start


class Pretrained(nn.Module, ABC):
    """A classifier (logits from pixels 0..1) of which all but the last layer can learn without labels."""

    @abstractmethod
    def learn(self, inputs: torch.Tensor, epochs: int, random: torch.Generator) -> None:
        """Learn from float32 (N, C, H, W), 0..1, for so many passes over them."""

    @abstractmethod
    def learned_without_labels(self) -> nn.Module:
        """The part that :meth:`learn` changes and that the last layer builds upon."""

    @abstractmethod
    def reconstruct(self, inputs: torch.Tensor) -> torch.Tensor:
        """The images that are given back for these, in the same shape, 0..1."""


def pretrain(module: Pretrained, inputs: torch.Tensor, epochs: int, random: torch.Generator) -> None:
    """Let the module learn from ``inputs`` (N, C, H, W), 0..1, without labels; ``random`` orders and draws."""
    module.train()
    module.learn(inputs, epochs, random)
    module.zero_grad()  # what is left over would count as part of the gradients that follow


class Autoencoder(Pretrained):
    """An encoder to a short code, a decoder back to the image, and a linear classifier on the code.

    Hinton and Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks" (2006), trained by
    backpropagation from random weights.
    """

    def __init__(
        self, input_shape: list[int], classes: int, hidden: list[int], code: int, activation: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        sizes = [prod(input_shape), *hidden, code]
        self.encoder = nn.Sequential(OrderedDict(flatten=nn.Flatten(), **_layers(sizes, activation)))
        self.decoder = nn.Sequential(OrderedDict(_layers(sizes[::-1], activation)))
        self.output = nn.Linear(code, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes)."""
        logits: torch.Tensor = self.output(self.encoder(inputs))
        return logits

    def reconstruct(self, inputs: torch.Tensor) -> torch.Tensor:
        """The images that the decoder makes of their codes."""
        pixels: torch.Tensor = self.decoder(self.encoder(inputs))
        return pixels.sigmoid().view_as(inputs)

    def learned_without_labels(self) -> nn.Module:
        """The encoder."""
        return self.encoder

    def learn(self, inputs: torch.Tensor, epochs: int, random: torch.Generator) -> None:
        """Minimise the cross-entropy between each pixel, taken as a probability, and what is given back for it."""
        optimizer = torch.optim.Adam([*self.encoder.parameters(), *self.decoder.parameters()], lr=ADAM_LR)
        for _ in range(epochs):
            for images in _batches(inputs, random):
                loss = F.binary_cross_entropy_with_logits(self.decoder(self.encoder(images)), images.flatten(1))
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()


class Machine(nn.Module):
    """A restricted Boltzmann machine: visible and hidden units of 0 or 1, each of one kind joined to all of the other.

    Numbers between 0 and 1 stand for the probability of 1.
    """

    def __init__(self, visible: int, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(visible, hidden)
        self.visible_bias = nn.Parameter(torch.zeros(visible))
        nn.init.normal_(self.dense.weight, std=DEVIATION)
        nn.init.zeros_(self.dense.bias)

    def forward(self, visible: torch.Tensor) -> torch.Tensor:
        """The probability of each hidden unit, (N, hidden), given the visible ones, (N, visible)."""
        return torch.sigmoid(self.dense(visible))

    def back(self, hidden: torch.Tensor) -> torch.Tensor:
        """The probability of each visible unit given the hidden ones: the same weights, the other way."""
        return torch.sigmoid(F.linear(hidden, self.dense.weight.T, self.visible_bias))

    @torch.no_grad()
    def learn(self, inputs: torch.Tensor, epochs: int, random: torch.Generator) -> None:
        """One step of contrastive divergence for each batch of rows (N, visible), 0..1.

        The weights move towards what goes together in the data, and away from what goes together in the rows that the
        machine makes of it: Hinton, "Training Products of Experts by Minimizing Contrastive Divergence" (2002).
        """
        weights = (self.dense.weight, self.dense.bias, self.visible_bias)
        speeds = [torch.zeros_like(each) for each in weights]
        for epoch in range(epochs):
            momentum = MOMENTUM[epoch >= 5]
            for data in _batches(inputs, random):
                likely = self(data)
                drawn = (torch.rand(likely.shape, generator=random).to(likely.device) < likely).float()
                made = self.back(drawn)  # probabilities, not draws: less noise (Hinton 2010, section 3.2)
                likely_of_made = self(made)
                changes = (
                    (likely.T @ data - likely_of_made.T @ made) / len(data) - WEIGHT_COST * self.dense.weight,
                    (likely - likely_of_made).mean(0),
                    (data - made).mean(0),
                )
                for each, speed, change in zip(weights, speeds, changes, strict=True):
                    each.add_(speed.mul_(momentum).add_(change, alpha=CD_LR))


class DeepBelief(Pretrained):
    """Restricted Boltzmann machines one upon the other, and a supervised layer.

    Each machine learns from what the one below makes of the data; with labels, the whole is then tuned by
    backpropagation: Hinton, Osindero and Teh, "A Fast Learning Algorithm for Deep Belief Nets" (2006), and Hinton and
    Salakhutdinov (2006) for the tuning. With a single machine it is a classifier on the hidden units of that machine.
    """

    def __init__(self, input_shape: list[int], classes: int, hidden: list[int]) -> None:
        super().__init__()
        machines = [Machine(*sizes) for sizes in pairwise([prod(input_shape), *hidden])]
        self.machines = nn.Sequential(*machines)
        self.output = nn.Linear(hidden[-1], classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes)."""
        logits: torch.Tensor = self.output(self.machines(inputs.flatten(1)))
        return logits

    def reconstruct(self, inputs: torch.Tensor) -> torch.Tensor:
        """The images that come back down through all machines."""
        units: torch.Tensor = self.machines(inputs.flatten(1))
        for machine in self._each(reverse=True):
            units = machine.back(units)
        return units.view_as(inputs)

    def learned_without_labels(self) -> nn.Module:
        """The machines."""
        return self.machines

    def learn(self, inputs: torch.Tensor, epochs: int, random: torch.Generator) -> None:
        """Greedy, layer by layer, from the bottom up."""
        rows = inputs.flatten(1)
        for machine in self._each():
            machine.learn(rows, epochs, random)
            with torch.no_grad():
                rows = machine(rows)

    def _each(self, reverse: bool = False) -> Iterator[Machine]:
        for module in list(self.machines)[:: -1 if reverse else 1]:
            assert isinstance(module, Machine)
            yield module


def _batches(inputs: torch.Tensor, random: torch.Generator) -> Iterator[torch.Tensor]:
    for rows in torch.split(torch.randperm(len(inputs), generator=random), BATCH):
        yield inputs[rows.to(inputs.device)]


def _layers(sizes: list[int], activation: Callable[[], nn.Module]) -> dict[str, nn.Module]:
    """Fully connected layers, with an activation after each but the last."""
    layers: dict[str, nn.Module] = {}
    for i, (before, after) in enumerate(pairwise(sizes), 1):
        layers[f"dense{i}"] = nn.Linear(before, after)
        if i < len(sizes) - 1:
            layers[f"dense{i}_activation"] = activation()
    return layers
