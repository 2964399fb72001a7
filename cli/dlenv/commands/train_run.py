"""``dlenv train``: the training itself, its progress and its record."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlenv.console import needs, say
from dlenv.errors import UsageError
from dlenv.progress import TrainingProgress

if TYPE_CHECKING:
    from dlenv_models.data import Dataset
    from dlenv_models.runs import Recorder
    from dlenv_models.training import Epoch, Trained


def recorder(
    name: str, line: str, architecture: str, dataset: Dataset, parameters: dict[str, Any], given: Mapping[str, Any]
) -> Recorder:
    """The record of the run, where its pictures will be, or beside until it is known which version that is."""
    from dlenv_models import runs
    from dlenv_models.trackers import tracker

    # Two trainings of one name may begin in the same second.
    stamp = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{os.getpid()}"
    folder = given["output"] or Path("runs") / f"{name}-{stamp}"
    return runs.record(
        folder,
        name=name,
        command=line,
        architecture=architecture,
        data=dataset.name,
        parameters=parameters,
        trackers=[tracker(wanted, folder, f"{name}-{stamp}", name, parameters) for wanted in given["track"]],
        log=say,
    )


def check_workers(architecture: str, given: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` where several processes can't train together."""
    if given["workers"] is None:
        for key in ("address", "storage"):
            if given[key] is not None:
                raise UsageError(f"{key}: it belongs to --workers; say how many")
    elif architecture == "ensemble" or given["folds"]:
        what = "an ensemble" if architecture == "ensemble" else "folds"
        raise UsageError(f"workers: {what} can't be shared out; train one model at a time with --workers")


def check(
    architecture: str,
    members: list[str],
    dataset: Dataset,
    options: dict[str, Any],
    arguments: dict[str, Any],
    given: Mapping[str, Any],
) -> None:
    """Raise ``UsageError`` for what can't be trained, before there is a record of it."""
    from dlenv_models import distributed, ensembles, training

    if members:
        ensembles.planned(members, dataset, options, arguments)
        return
    chosen = replace(training.recipe(architecture, dataset), **options)
    if given["workers"]:
        distributed.check(architecture, dataset, chosen, arguments, given["workers"])
    if given["address"] is None:  # else the device is another machine's
        training.check(architecture, chosen, dataset)
    training.describe(architecture, dataset, chosen, arguments)


def speed(trained: Trained, workers: int | None) -> dict[str, float]:
    """Rows trained on in a second, in the middle one of the epochs by speed: the first waits for what starts up."""
    together = statistics.median(epoch.rate for epoch in trained.history)
    return {"rows_per_second": together, **({"rows_per_second_per_worker": together / workers} if workers else {})}


def train(
    architecture: str,
    members: list[str],
    dataset: Dataset,
    options: dict[str, Any],
    arguments: dict[str, Any],
    record: Recorder,
    given: Mapping[str, Any],
) -> Trained:
    """Train, telling how far it is."""
    from dlenv_models import training
    from dlenv_models.ensembles import train_ensemble

    chosen = replace(training.recipe(members[0] if members else architecture, dataset), **options)
    who = f"{architecture} of {', '.join(members)}" if members else architecture
    workers = given["workers"]
    where = f", in {workers} processes" if workers else ""
    say(f"Training {who} on {dataset.name}: {len(dataset.train):,} rows, {chosen.epochs} epochs{where}.")
    with TrainingProgress(chosen.epochs) as talk:

        def on_epoch(epoch: Epoch) -> None:
            talk.on_epoch(epoch)
            record.epoch(epoch.figures)

        if members:
            return train_ensemble(members, dataset, options, arguments, talk.on_step, on_epoch)
        if workers:
            with needs("tune"):
                from dlenv_models import distributed

                return distributed.train(
                    architecture,
                    dataset,
                    chosen,
                    arguments,
                    on_epoch,
                    workers=workers,
                    threads=given["threads"] or 1,
                    address=given["address"],
                    storage=given["storage"],
                )
        return training.train(architecture, dataset, chosen, arguments, talk.on_step, on_epoch)
