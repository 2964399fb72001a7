"""Training a classifier, from top to bottom.

The experiment of the course notes: a linear model can't separate spiral arms, one hidden ReLU layer can.

    dlenv train linear --data spiral
    dlenv train mlp --data spiral

The models for handwritten digits that ship with dlenv; each takes about a minute on one CPU core:

    dlenv train mlp --data mnist5k --name mnist-mlp
    dlenv train lenet --data mnist5k --name mnist-lenet

LeNet as in the book (d2l 7.6), with sigmoids, Xavier weights and plain stochastic gradient descent:

    dlenv train lenet --data fashion-mnist --activation sigmoid --init xavier --optimizer sgd --lr 0.9 \
        --momentum 0 --schedule constant --channels 6,16 --batch-size 256 --epochs 10 --no-augment

From Python: ``dataset = load("spiral")``, then ``train("mlp", dataset, recipe("mlp", dataset))``.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dlenv.errors import DataError, UsageError
from dlenv_models import zoo
from dlenv_models._check import did_you_mean
from dlenv_models.architectures import ARCHITECTURES, complete
from dlenv_models.augment import affine
from dlenv_models.data import Dataset
from dlenv_models.evaluation import measure, preprocess
from dlenv_models.manifest import Architecture

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class Options:
    """How to train. The defaults are for rows of numbers; :func:`recipe` has those for images."""

    epochs: int = 100
    batch_size: int = 64  # a last batch of a single row joins the one before
    optimizer: str = "adam"
    lr: float = 0.01
    momentum: float = 0.9  # sgd only
    weight_decay: float = 0.0
    schedule: str = "cosine"  # of the learning rate, down to 0 over all epochs (Loshchilov and Hutter, 2016)
    clip: float = 0.0  # largest norm of the gradient; 0: not clipped (d2l 9.5)
    patience: int = 0  # epochs without a better validation loss before stopping early; 0: never (d2l 5.5)
    augment: bool = False  # random affine changes of each image
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Epoch:
    """One line of the learning curves; losses in nats, accuracies 0..1, ``rate`` in examples per second."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    rate: float


@dataclass(frozen=True)
class Step:
    """Where training is after a batch: ``done`` of ``total`` examples, and this epoch's means so far."""

    epoch: int
    done: int
    total: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Trained:
    """The module on the CPU in eval mode, what it is, how training went, and how many seconds it took."""

    module: nn.Module
    architecture: Architecture
    history: tuple[Epoch, ...]
    seconds: float


def recipe(name: str, dataset: Dataset) -> Options:
    """Options that give good results without tuning, for this architecture and kind of data."""
    if dataset.is_images:
        # A linear model has one template for each class; augmentation only blurs it.
        return Options(epochs=50, lr=0.003, augment=name != "linear")
    return Options()


def default_arguments(name: str, dataset: Dataset) -> dict[str, Any]:
    """Arguments of the architecture where this kind of data wants others than the usual ones."""
    return {"hidden": [100]} if name == "mlp" and not dataset.is_images else {}


def check(options: Options, dataset: Dataset) -> None:
    """Raise ``UsageError`` naming the option that can't be used."""
    for name, value, choices in (
        ("optimizer", options.optimizer, OPTIMIZERS),
        ("schedule", options.schedule, SCHEDULES),
    ):
        if value not in choices:
            raise UsageError(f"{name}: {value!r} is not one of {', '.join(choices)}{did_you_mean(value, choices)}")
    for name, number, low, high in (
        ("epochs", options.epochs, 1, 100_000),
        ("batch_size", options.batch_size, 1, 65_536),
        ("lr", options.lr, 1e-9, 1e3),
        ("momentum", options.momentum, 0, 0.9999),
        ("weight_decay", options.weight_decay, 0, 1e3),
        ("clip", options.clip, 0, 1e9),
        ("patience", options.patience, 0, 100_000),
        ("seed", options.seed, 0, 2**32 - 1),
    ):
        if not low <= number <= high:  # false for NaN too
            raise UsageError(f"{name}: {number} is not between {low:g} and {high:g}")
    if options.augment and not dataset.is_images:
        raise UsageError(f"augment: {dataset.name} holds no images that could be turned or shifted; leave it out")
    if options.device.partition(":")[0] not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device: {options.device!r} is not one of cpu, cuda, cuda:N, mps")
    try:
        torch.empty(1, device=options.device)
    except (RuntimeError, AssertionError):
        raise UsageError(f"device: {options.device!r} is not there; use cpu") from None


def train(
    name: str,
    dataset: Dataset,
    options: Options,
    arguments: Mapping[str, Any] | None = None,
    on_step: Callable[[Step], None] = lambda _: None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Trained:
    """Train the architecture ``name`` on ``dataset``; the held-out split is not touched.

    The same seed, options, machine and thread count give the same weights, bit by bit. With ``patience`` the weights
    of the epoch with the lowest validation loss are kept, else those of the last epoch.

    Raises ``UsageError`` for an option or argument that can't be used, ``DataError`` where the loss stops being a
    number.
    """
    check(options, dataset)
    shape = {"input_shape": list(dataset.row_shape), "classes": len(dataset.classes)}
    try:
        architecture = Architecture(
            name, complete(name, {**default_arguments(name, dataset), **(arguments or {}), **shape})
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    if options.batch_size < (least := ARCHITECTURES[name].smallest_batch):
        raise UsageError(
            f"batch_size: {options.batch_size} is too small for {name}, whose batch normalisation compares the rows "
            f"of a batch; take {least} or more"
        )
    # The caller's random state stays as it is, and can't change the result.
    device = torch.device(options.device)
    forked = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(forked), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
        torch.manual_seed(options.seed)  # for the initial weights and for dropout
        module = zoo.build(name, **architecture.arguments).to(options.device)
        begin = time.perf_counter()
        history = _fit(module, dataset, options, on_step, on_epoch)
    return Trained(module.cpu().eval(), architecture, tuple(history), time.perf_counter() - begin)


def _fit(
    module: nn.Module,
    dataset: Dataset,
    options: Options,
    on_step: Callable[[Step], None],
    on_epoch: Callable[[Epoch], None],
) -> list[Epoch]:
    device = torch.device(options.device)
    random = torch.Generator().manual_seed(options.seed)  # order of the examples, and augmentation
    prepare = preprocess(dataset.preprocessing, dataset.row_shape, device)
    inputs, labels = dataset.train.inputs.to(device), dataset.train.labels.to(device)
    optimizer = _optimizer(module, options)
    history: list[Epoch] = []
    best, best_loss, best_epoch = copy.deepcopy(module.state_dict()), math.inf, 0

    for epoch in range(1, options.epochs + 1):
        begin = time.perf_counter()
        order = torch.randperm(len(labels), generator=random).to(device)
        batches = _batches(order, options.batch_size)
        module.train()
        total_loss, right, seen = 0.0, 0, 0
        for number, rows in enumerate(batches):
            if options.schedule == "cosine":
                progress = (epoch - 1 + number / len(batches)) / options.epochs
                for group in optimizer.param_groups:
                    group["lr"] = options.lr * (1 + math.cos(math.pi * progress)) / 2
            raw = inputs[rows].float()
            logits = module(prepare(affine(raw, random) if options.augment else raw))
            loss = F.cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            if options.clip:
                nn.utils.clip_grad_norm_(module.parameters(), options.clip)
            optimizer.step()

            total_loss += loss.item() * len(rows)
            right += int((logits.argmax(dim=1) == labels[rows]).sum())
            seen += len(rows)
            if not math.isfinite(total_loss):
                raise DataError(f"the loss stopped being a number in epoch {epoch}; try a lower --lr, or --clip 1")
            on_step(
                Step(
                    epoch,
                    (epoch - 1) * len(labels) + seen,
                    options.epochs * len(labels),
                    total_loss / seen,
                    right / seen,
                )
            )
        rate = seen / (time.perf_counter() - begin)
        held = measure(module, dataset.preprocessing, dataset.validation, len(dataset.classes), device)
        history.append(Epoch(epoch, total_loss / seen, right / seen, held.test_loss, held.test_accuracy, rate))
        on_epoch(history[-1])

        if options.patience:
            if held.test_loss < best_loss:
                best, best_loss, best_epoch = copy.deepcopy(module.state_dict()), held.test_loss, epoch
            elif epoch - best_epoch >= options.patience:
                break
    if options.patience:
        module.load_state_dict(best)
    return history


def _batches(order: torch.Tensor, size: int) -> list[torch.Tensor]:
    """``order`` in parts of ``size``; the last is shorter, or one longer where it would be a single row.

    Batch normalisation can't train on a single row, and in any architecture its gradient would be mostly noise.
    """
    batches = list(torch.split(order, size))
    if size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _optimizer(module: nn.Module, options: Options) -> torch.optim.Optimizer:
    if options.optimizer == "sgd":
        return torch.optim.SGD(
            module.parameters(), lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay
        )
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    return kind(module.parameters(), lr=options.lr, weight_decay=options.weight_decay)
