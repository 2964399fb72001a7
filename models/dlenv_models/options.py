"""How to train: every option with its meaning, its bounds and its source.

Numbers such as "d2l 5.5" are sections of *Dive into Deep Learning* (d2l.ai).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from dlenv.errors import UsageError
from dlenv_models._check import did_you_mean
from dlenv_models.architectures import ARCHITECTURES
from dlenv_models.data import Dataset
from dlenv_models.schedules import SCHEDULES

__all__ = ["OPTIMIZERS", "PRECISIONS", "Options", "check", "default_arguments", "recipe"]

OPTIMIZERS = ("sgd", "adam", "adamw")
PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True)
class Options:
    """How to train. The defaults are for rows of numbers; :func:`recipe` has those for images."""

    epochs: int = 100
    batch_size: int = 64  # a last batch of a single row joins the one before
    optimizer: str = "adam"
    lr: float = 0.01
    momentum: float = 0.9  # sgd only
    weight_decay: float = 0.0  # d2l 3.7
    schedule: str = "cosine"  # of the learning rate; dlenv_models.schedules, d2l 12.11
    warmup: int = 0  # epochs in which the learning rate rises from 0
    clip: float = 0.0  # largest norm of the gradient; 0: not clipped (d2l 9.5; Pascanu, Mikolov and Bengio, 2013)
    clip_value: float = 0.0  # largest amount of each number of the gradient; 0: not clipped
    normalize_gradients: bool = False  # every step has a gradient of norm 1: the direction counts, not the length
    label_smoothing: float = 0.0  # part of the probability that is spread over all classes (Szegedy et al., 2015)
    patience: int = 0  # epochs without a better validation loss before stopping early; 0: never (d2l 5.5)
    augment: bool = False  # random affine changes of each image
    precision: str = "float32"  # bf16: products of matrices in bfloat16, weights in float32 (Micikevicius et al., 2017)
    pretrain: int = 0  # epochs without labels before those with, for autoencoder, rbm and dbn
    freeze: bool = False  # what was learned without labels stays as it is; only the layer upon it learns
    seed: int = 0
    device: str = "cpu"


def recipe(name: str, dataset: Dataset) -> Options:
    """Options that give good results without tuning, for this architecture and kind of data."""
    if not dataset.is_images:
        return Options()
    spec = ARCHITECTURES[name]
    # A linear model has one template for each class; augmentation only blurs it. What was learned without labels was
    # learned from the images as they are.
    options = Options(epochs=50, lr=0.003, augment=name != "linear" and not spec.pretrained)
    if spec.pretrained:
        # Fine-tuned weights would no longer give back the image, so only the network that is meant for it is tuned.
        return replace(options, pretrain=20, freeze=name != "dbn")
    return options


def default_arguments(name: str, dataset: Dataset) -> dict[str, Any]:
    """Arguments of the architecture where this kind of data wants others than the usual ones."""
    return {"hidden": [100]} if name == "mlp" and not dataset.is_images else {}


def check(name: str, options: Options, dataset: Dataset) -> None:
    """Raise ``UsageError`` naming the option that can't be used to train the architecture ``name`` on ``dataset``."""
    for key, value, choices in (
        ("optimizer", options.optimizer, OPTIMIZERS),
        ("schedule", options.schedule, SCHEDULES),
        ("precision", options.precision, PRECISIONS),
    ):
        if value not in choices:
            raise UsageError(f"{key}: {value!r} is not one of {', '.join(choices)}{did_you_mean(value, choices)}")
    for key, number, low, high in (
        ("epochs", options.epochs, 1, 100_000),
        ("batch_size", options.batch_size, 1, 65_536),
        ("lr", options.lr, 1e-9, 1e3),
        ("momentum", options.momentum, 0, 0.9999),
        ("weight_decay", options.weight_decay, 0, 1e3),
        ("warmup", options.warmup, 0, options.epochs - 1),
        ("clip", options.clip, 0, 1e9),
        ("clip_value", options.clip_value, 0, 1e9),
        ("label_smoothing", options.label_smoothing, 0, 0.95),
        ("patience", options.patience, 0, 100_000),
        ("pretrain", options.pretrain, 0, 100_000),
        ("seed", options.seed, 0, 2**32 - 1),
    ):
        if not low <= number <= high:  # false for NaN too
            raise UsageError(f"{key}: {number} is not between {low:g} and {high:g}")
    if options.augment and not dataset.is_images:
        raise UsageError(f"augment: {dataset.name} holds no images that could be turned or shifted; leave it out")
    if (options.pretrain or options.freeze) and not ARCHITECTURES[name].pretrained:
        key = "pretrain" if options.pretrain else "freeze"
        able = ", ".join(each for each, spec in ARCHITECTURES.items() if spec.pretrained)
        raise UsageError(f"{key}: {name} learns nothing without labels; {able} do")
    if options.device.partition(":")[0] not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device: {options.device!r} is not one of cpu, cuda, cuda:N, mps")
    try:
        torch.empty(1, device=options.device)
    except (RuntimeError, AssertionError):
        raise UsageError(f"device: {options.device!r} is not there; use cpu") from None
