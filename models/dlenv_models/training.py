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
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dlenv.errors import DataError, UsageError
from dlenv_models import gradients, schedules, zoo
from dlenv_models.architectures import ARCHITECTURES, complete, smallest_batch
from dlenv_models.augment import affine
from dlenv_models.data import Dataset
from dlenv_models.evaluation import measure, preprocess
from dlenv_models.manifest import Architecture, Preprocessing
from dlenv_models.options import Options, check, default_arguments, recipe
from dlenv_models.pretraining import Pretrained, pretrain

__all__ = ["Epoch", "Options", "Step", "Trained", "check", "default_arguments", "recipe", "train"]


READY_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Epoch:
    """One line of the learning curves; losses in nats, accuracies 0..1, ``rate`` in examples per second."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    rate: float
    gradient_norms: Mapping[str, float] = field(default_factory=dict)  # of each layer's weights, in the last step

    @property
    def figures(self) -> dict[str, float]:
        """What a run's record keeps of it."""
        names = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "rate")
        return {name: getattr(self, name) for name in names}


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
    """The module on the CPU in eval mode, what it is and takes, how it was trained, and how many seconds that took."""

    module: nn.Module
    architecture: Architecture
    preprocessing: Preprocessing
    history: tuple[Epoch, ...]
    seconds: float
    options: Mapping[str, Any]  # but for the seed


class Group:
    """The processes that train one model together: here a single one; :mod:`dlenv_models.distributed` has others.

    Process ``rank`` of ``size`` takes every ``size``-th row of each batch, beginning with row ``rank``.
    """

    rank = 0
    size = 1

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose gradients are those of the whole batch."""
        return module

    def sums(self, *numbers: float) -> tuple[float, ...]:
        """Each number, added over all processes."""
        return numbers

    def of_first(self, *numbers: float) -> tuple[float, ...]:
        """Each number as the first process has it, so that all decide alike."""
        return self.sums(*(0.0 if self.rank else number for number in numbers))

    def begin(self, progress: Progress) -> None:
        """Go on where a process that died was."""

    def end(self, progress: Progress, *, last: bool) -> None:
        """An epoch has ended."""


@dataclass
class Progress:
    """All that the rest of a training depends on."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    random: torch.Generator
    best: dict[str, torch.Tensor]
    best_loss: float = math.inf
    best_epoch: int = 0
    history: list[Epoch] = field(default_factory=list)


def train(
    name: str,
    dataset: Dataset,
    options: Options,
    arguments: Mapping[str, Any] | None = None,
    on_step: Callable[[Step], None] = lambda _: None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    group: Group = Group(),  # noqa: B008 - it has no state
) -> Trained:
    """Train the architecture ``name`` on ``dataset``; the held-out split is not touched.

    The same seed, options, machine and thread count give the same weights, bit by bit. With ``patience`` the weights
    of the epoch with the lowest validation loss are kept, else those of the last epoch.

    Raises ``UsageError`` for an option or argument that can't be used, ``DataError`` where the loss stops being a
    number.
    """
    check(name, options, dataset)
    # The caller's random state stays as it is, and can't change the result.
    device = torch.device(options.device)
    forked = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(forked), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
        torch.manual_seed(options.seed)  # for the initial weights and for dropout
        architecture, preprocessing, module = build(name, dataset, options, arguments)
        module = module.to(options.device)
        begin = time.perf_counter()
        history = _fit(module, dataset, preprocessing, options, on_step, on_epoch, group)
    seconds = time.perf_counter() - begin
    return Trained(module.cpu().eval(), architecture, preprocessing, tuple(history), seconds, story(options))


def build(
    name: str, dataset: Dataset, options: Options, arguments: Mapping[str, Any] | None
) -> tuple[Architecture, Preprocessing, nn.Module]:
    """What is trained, before it is; raises ``UsageError`` for an option or argument that can't be used."""
    architecture = describe(name, dataset, options, arguments)
    preprocessing = dataset.pixels_to_one if ARCHITECTURES[name].pretrained else dataset.preprocessing
    return architecture, preprocessing, zoo.build(name, **architecture.arguments)


def describe(name: str, dataset: Dataset, options: Options, arguments: Mapping[str, Any] | None) -> Architecture:
    """The architecture with all its arguments; raises ``UsageError`` for one that can't be used with these options."""
    shape = {"input_shape": list(dataset.row_shape), "classes": len(dataset.classes)}
    try:
        architecture = Architecture(
            name, complete(name, {**default_arguments(name, dataset), **(arguments or {}), **shape})
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    if options.batch_size < (least := smallest_batch(name, architecture.arguments)):
        raise UsageError(
            f"batch_size: {options.batch_size} is too small for {name}, whose batch normalisation compares the rows "
            f"of a batch; take {least} or more"
        )
    return architecture


def story(options: Options) -> dict[str, Any]:
    """The options as a manifest names them, which has the seed elsewhere."""
    return {key: value for key, value in asdict(options).items() if key != "seed"}


def _fit(
    module: nn.Module,
    dataset: Dataset,
    preprocessing: Preprocessing,
    options: Options,
    on_step: Callable[[Step], None],
    on_epoch: Callable[[Epoch], None],
    group: Group,
) -> list[Epoch]:
    device = torch.device(options.device)
    random = torch.Generator().manual_seed(options.seed)  # order of the examples, and augmentation
    prepare = preprocess(preprocessing, dataset.row_shape, device)
    inputs, labels = dataset.train.inputs.to(device), dataset.train.labels.to(device)
    # Rows that stay as they are get ready once, where there is room for them as float32.
    ready = prepare(inputs.float()) if not options.augment and inputs.numel() * 4 <= READY_BYTES else None
    if isinstance(module, Pretrained):
        if options.pretrain:
            pretrain(module, prepare(inputs), options.pretrain, random)
        module.learned_without_labels().requires_grad_(not options.freeze)
    optimizer = _optimizer(module, options)
    at = Progress(module, optimizer, random, copy.deepcopy(module.state_dict()))
    group.begin(at)
    together = group.wrap(module)

    for epoch in range(len(at.history) + 1, options.epochs + 1):
        begin = time.perf_counter()
        order = torch.randperm(len(labels), generator=random).to(device)
        batches = _batches(order, options.batch_size)
        module.train()
        total_loss, right, seen = 0.0, 0, 0
        for number, rows in enumerate(batches):
            done = epoch - 1 + number / len(batches)
            for weights in optimizer.param_groups:
                weights["lr"] = options.lr * schedules.factor(options.schedule, done, options.epochs, options.warmup)
            whole, rows = len(rows), rows[group.rank :: group.size]
            batch = ready[rows] if ready is not None else inputs[rows].float()
            if options.augment:
                batch = affine(batch, random, (group.rank, group.size, whole))
            if ready is None:
                batch = prepare(batch)
            # Autocast picks the operators that bear fewer digits: docs.pytorch.org/docs/stable/amp.html
            with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
                logits = together(batch)
            loss = F.cross_entropy(logits.float(), labels[rows], label_smoothing=options.label_smoothing)
            if not len(rows):  # a last batch with fewer rows than there are processes
                loss = logits.sum()
            optimizer.zero_grad()
            # The processes' gradients are averaged: each counts by its rows.
            torch.autograd.backward(loss if group.size == 1 else loss * (len(rows) * group.size / whole))
            gradients.limit(module, options.clip, options.clip_value, options.normalize_gradients)
            optimizer.step()

            total_loss += loss.item() * len(rows)
            right += int((logits.argmax(dim=1) == labels[rows]).sum())
            seen += len(rows)
            if group.size == 1:  # several find out together, or some would wait for the one that gives up
                _check_loss(total_loss, epoch)
            on_step(
                Step(
                    epoch,
                    (epoch - 1) * len(labels) + seen,
                    options.epochs * len(labels),
                    total_loss / seen,
                    right / seen,
                )
            )
        total_loss, all_right, seen_by_all = group.sums(total_loss, right, seen)
        _check_loss(total_loss, epoch)
        rate = seen_by_all / (time.perf_counter() - begin)
        norms = gradients.norms(module)
        held = measure(module, preprocessing, dataset.validation, len(dataset.classes), device)
        # Batch normalisation's running means are each process's own; those of the first are kept.
        loss_held, right_held = group.of_first(held.test_loss, held.test_accuracy)
        means = (total_loss / seen_by_all, all_right / seen_by_all, loss_held, right_held)
        at.history.append(Epoch(epoch, *means, rate, norms))
        on_epoch(at.history[-1])
        if options.patience and loss_held < at.best_loss:
            at.best, at.best_loss, at.best_epoch = copy.deepcopy(module.state_dict()), loss_held, epoch
        hopeless = bool(options.patience) and epoch - at.best_epoch >= options.patience
        group.end(at, last=hopeless or epoch == options.epochs)
        if hopeless:
            break
    if options.patience:
        module.load_state_dict(at.best)
    return at.history


def _check_loss(total: float, epoch: int) -> None:
    if not math.isfinite(total):
        raise DataError(f"the loss stopped being a number in epoch {epoch}; try a lower --lr, or --clip 1")


def smallest_of_batches(rows: int, size: int) -> int:
    """How many rows the smallest batch of an epoch has."""
    return min(map(len, _batches(torch.arange(rows), size)))


def _batches(order: torch.Tensor, size: int) -> list[torch.Tensor]:
    """``order`` in parts of ``size``; the last is shorter, or one longer where it would be a single row.

    Batch normalisation can't train on a single row, and in any architecture its gradient would be mostly noise.
    """
    batches = list(torch.split(order, size))
    if size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _optimizer(module: nn.Module, options: Options) -> torch.optim.Optimizer:
    weights = [each for each in module.parameters() if each.requires_grad]
    # Fused: one pass over the weights in place of one for each operation of the rule.
    if options.optimizer == "sgd":
        return torch.optim.SGD(
            weights, lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay, fused=True
        )
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    return kind(weights, lr=options.lr, weight_decay=options.weight_decay, fused=True)
