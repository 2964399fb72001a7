"""The options that say what to train and how, for the commands that train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

__all__ = ["ARGUMENTS", "OPTIONS", "how_to_train", "what_to_train"]

# Which of the options are arguments of the architecture, and which are fields of dlenv_models.options.Options.
ARGUMENTS = ("hidden", "channels", "code", "activation", "dropout", "batch_norm", "init")
OPTIONS = (
    *("epochs", "batch_size", "optimizer", "lr", "momentum", "weight_decay", "schedule", "warmup"),
    *("clip", "clip_value", "normalize_gradients", "label_smoothing", "patience", "augment", "precision"),
    *("pretrain", "freeze", "seed", "device"),
)

Command = TypeVar("Command", bound=Callable[..., Any])


def how_to_train(command: Command) -> Command:
    """Give a command all these options; those that were not given are None."""
    return _with((*_ARCHITECTURE, *_TRAINING), command)


def what_to_train(command: Command) -> Command:
    """Give a command the arguments of architectures only."""
    return _with(_ARCHITECTURE, command)


def _with(options: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def _sizes(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int] | None:
    """``"128,64"`` as ``[128, 64]``."""
    try:
        return None if value is None else [int(part) for part in value.split(",")]
    except ValueError:
        problem = f"{value!r} is not whole numbers with commas between them, such as 128,64."
        raise click.BadParameter(problem, ctx, param) from None


_ARCHITECTURE = (
    click.option(
        "--hidden",
        callback=_sizes,
        metavar="N[,N...]",
        help="Hidden units of each layer: mlp, alexnet, vgg, lstm, autoencoder, rbm, dbn. "
        "[default: 256; mlp: 100 for rows]",
    ),
    click.option(
        "--channels",
        callback=_sizes,
        metavar="N[,N...]",
        help="Channels of the convolutions: two for lenet, five for alexnet and vgg, three for nin. "
        "[default: lenet: 16,32]",
    ),
    click.option("--code", type=int, metavar="N", help="autoencoder: numbers in the code. [default: 32]"),
    click.option(
        "--activation",
        type=click.Choice(["relu", "sigmoid", "tanh", "none"]),
        help="mlp, lenet, autoencoder. [default: relu]",
    ),
    click.option(
        "--dropout", type=float, metavar="P", help="Dropout in fully connected layers, 0 to 0.95. [default: 0]"
    ),
    click.option("--batch-norm/--no-batch-norm", default=None, help="mlp, lenet: batch normalisation. [default: off]"),
    click.option("--init", type=click.Choice(["default", "xavier", "kaiming"]), help="Initial weights."),
)
_TRAINING = (
    click.option("--epochs", type=int, help="Passes over the training data. [default: 50 for images, 100 for rows]"),
    click.option("--batch-size", type=int, help="Examples in each step. [default: 64]"),
    click.option("--optimizer", type=click.Choice(["sgd", "adam", "adamw"]), help="[default: adam]"),
    click.option("--lr", type=float, help="Learning rate at the start. [default: 0.003 for images, 0.01 for rows]"),
    click.option("--momentum", type=float, help="sgd: momentum. [default: 0.9]"),
    click.option("--weight-decay", type=float, help="L2 penalty (adamw: decoupled). [default: 0]"),
    click.option(
        "--schedule",
        type=click.Choice(["constant", "cosine", "step", "exponential"]),
        help="Of the learning rate. step: a tenth after half and after three quarters; exponential: down to a "
        "hundredth. [default: cosine]",
    ),
    click.option(
        "--warmup", type=int, metavar="EPOCHS", help="Let the learning rate rise from 0 for so long. [default: 0]"
    ),
    click.option(
        "--clip", type=float, metavar="NORM", help="Clip the gradient to this norm. [default: 0, not clipped]"
    ),
    click.option(
        "--clip-value",
        type=float,
        metavar="X",
        help="Clip each number of the gradient to -X..X. [default: 0, not clipped]",
    ),
    click.option(
        "--normalize-gradients/--no-normalize-gradients",
        default=None,
        help="Give the gradient of every step the norm 1. [default: off]",
    ),
    click.option(
        "--label-smoothing", type=float, metavar="P", help="Part of each label spread over all classes. [default: 0]"
    ),
    click.option(
        "--patience",
        type=int,
        metavar="EPOCHS",
        help="Stop early after so many epochs without a better validation loss, and keep the best weights. "
        "[default: 0, never]",
    ),
    click.option(
        "--augment/--no-augment",
        default=None,
        help="Turn, scale, shift and shear each training image at random. "
        "[default: on for images, but not with linear, autoencoder, rbm and dbn]",
    ),
    click.option(
        "--precision",
        type=click.Choice(["float32", "bf16"]),
        help="bf16: multiply matrices in bfloat16, and keep the weights in float32. [default: float32]",
    ),
    click.option(
        "--pretrain",
        type=int,
        metavar="EPOCHS",
        help="autoencoder, rbm, dbn: passes without labels before those with. [default: 20]",
    ),
    click.option(
        "--freeze/--no-freeze",
        default=None,
        help="autoencoder, rbm, dbn: with labels, train the last layer only. [default: on, but not with dbn]",
    ),
    click.option(
        "--seed", type=int, help="Of weights, order, augmentation, dropout and validation split. [default: 0]"
    ),
    click.option("--device", metavar="cpu|cuda|cuda:N|mps", help="Where to train. [default: cpu]"),
)
