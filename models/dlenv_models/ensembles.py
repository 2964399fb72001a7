"""Soft voting: several networks are trained on the same data, and the mean of their probabilities is the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from dlenv.errors import UsageError
from dlenv_models.architectures import ARCHITECTURES, complete
from dlenv_models.data import Dataset
from dlenv_models.manifest import Architecture
from dlenv_models.options import Options, recipe
from dlenv_models.training import Epoch, Step, Trained, check, describe, train
from dlenv_models.zoo import Ensemble

__all__ = ["members_of", "planned", "train_ensemble"]


def members_of(names: Sequence[str], arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The members of an ensemble of these architectures: each takes those of the ``arguments`` that it knows.

    Raises ``UsageError`` for an argument that none of them takes.
    """
    takes = {name: ARCHITECTURES[name].options if name in ARCHITECTURES else {} for name in names}
    if unknown := sorted(arguments.keys() - set(chain.from_iterable(takes.values()))):
        raise UsageError(f"{unknown[0]}: none of {', '.join(names)} takes such an argument")
    return [{"name": name, "arguments": {k: v for k, v in arguments.items() if k in takes[name]}} for name in names]


def planned(
    names: Sequence[str], dataset: Dataset, options: Mapping[str, Any], arguments: Mapping[str, Any]
) -> list[tuple[dict[str, Any], Options]]:
    """Each member, and how it is trained, but for its seed.

    Raises ``UsageError`` for an option or argument that can't be used, before any time goes into training.
    """
    wanted = members_of(names, arguments)
    shape = {"input_shape": list(dataset.row_shape), "classes": len(dataset.classes)}
    try:
        complete("ensemble", {**shape, "members": wanted})
    except ValueError as error:
        raise UsageError(str(error)) from None
    chosen = [replace(recipe(member["name"], dataset), **options) for member in wanted]
    for member, each in zip(wanted, chosen, strict=True):
        check(member["name"], each, dataset)
        describe(member["name"], dataset, each, member["arguments"])
    return list(zip(wanted, chosen, strict=True))


def train_ensemble(
    names: Sequence[str],
    dataset: Dataset,
    options: Mapping[str, Any],
    arguments: Mapping[str, Any],
    on_step: Callable[[Step], None] = lambda _: None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Trained:
    """Train one network of each of these architectures, and make one model of them: :class:`zoo.Ensemble`.

    Each is trained by its own recipe with these ``options``; the first has the seed that is given, the second the next
    one, and so on, so that also networks of one architecture differ. Each takes those ``arguments`` that it knows. In
    the history, the epochs of the members follow each other.

    Raises ``UsageError`` for an option or argument that can't be used.
    """
    shape: dict[str, Any] = {"input_shape": list(dataset.row_shape), "classes": len(dataset.classes)}
    trained = []
    for i, (member, chosen) in enumerate(planned(names, dataset, options, arguments)):
        chosen = replace(chosen, seed=chosen.seed + i)
        trained.append(train(member["name"], dataset, chosen, member["arguments"], on_step, on_epoch))
    members = [
        {
            "name": each.architecture.name,
            "arguments": {k: v for k, v in each.architecture.arguments.items() if k not in shape},
        }
        for each in trained
    ]
    history = chain.from_iterable(each.history for each in trained)
    return Trained(
        module=Ensemble([each.module for each in trained]).eval(),
        architecture=Architecture("ensemble", complete("ensemble", {**shape, "members": members})),
        preprocessing=dataset.preprocessing,
        history=tuple(replace(epoch, epoch=number) for number, epoch in enumerate(history, 1)),
        seconds=sum(each.seconds for each in trained),
        options=_story(trained),
    )


def _story(trained: Sequence[Trained]) -> dict[str, Any]:
    """The first member's options, and what the others have otherwise."""
    first = trained[0].options
    story = dict(first)
    for number, each in enumerate(trained[1:], 2):
        story |= {f"member {number}: {key}": value for key, value in each.options.items() if value != first[key]}
    return story
