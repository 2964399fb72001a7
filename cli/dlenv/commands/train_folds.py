"""``dlenv train --folds``: K models, each measured on the part of the data that it was trained without."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlenv.console import print_json, print_table, say
from dlenv.errors import UsageError
from dlenv.progress import TrainingProgress

if TYPE_CHECKING:
    from dlenv_models.crossvalidation import Fold
    from dlenv_models.data import Dataset
    from dlenv_models.runs import Recorder
    from dlenv_models.training import Epoch


def check_folds(architecture: str, dataset: Dataset, count: int) -> None:
    """Raise ``UsageError`` for what can't be cross-validated."""
    from dlenv_models import crossvalidation

    if architecture == "ensemble":
        raise UsageError("folds: an ensemble can't be cross-validated; name the architecture of its members")
    next(crossvalidation.folds(dataset, count))


def cross_validate(
    architecture: str,
    dataset: Dataset,
    options: dict[str, Any],
    arguments: dict[str, Any],
    count: int,
    record: Recorder,
) -> list[Fold]:
    """Train and measure the models of all folds; the record has their epochs one after another, and the means."""
    from dlenv_models import crossvalidation
    from dlenv_models.options import recipe

    chosen = replace(recipe(architecture, dataset), **options)
    rows = len(dataset.train) + len(dataset.validation)
    say(f"Cross-validating {architecture} on {dataset.name}: {rows:,} rows in {count} folds, {chosen.epochs} epochs.")
    with TrainingProgress(chosen.epochs) as talk:

        def on_epoch(epoch: Epoch) -> None:
            talk.on_epoch(epoch)
            record.epoch(epoch.figures)

        folds = list(
            crossvalidation.cross_validate(architecture, dataset, chosen, count, arguments, talk.on_step, on_epoch)
        )
    result: dict[str, float] = {}
    for key in ("accuracy", "loss"):
        mean, deviation = crossvalidation.mean_and_deviation([getattr(fold, key) for fold in folds])
        result |= {f"validation_{key}": mean, f"validation_{key}_deviation": deviation}
    record.end("finished", result=result, parameters={**arguments, **asdict(chosen), "folds": count})
    return folds


def report_folds(folds: list[Fold], folder: Path, as_json: bool) -> None:
    """How good the models are, with mean and deviation."""
    from dlenv_models import crossvalidation

    accuracy, loss = (
        crossvalidation.mean_and_deviation([getattr(fold, key) for fold in folds]) for key in ("accuracy", "loss")
    )
    if as_json:
        means = {"accuracy": accuracy[0], "loss": loss[0]}
        deviations = {"accuracy": accuracy[1], "loss": loss[1]}
        print_json(
            {"folds": [asdict(fold) for fold in folds], "mean": means, "deviation": deviations, "folder": str(folder)}
        )
        return
    lines = [[str(f.number), f"{f.rows:,}", f"{f.accuracy:.2%}", f"{f.loss:.4f}", f"{f.seconds:.1f} s"] for f in folds]
    lines.append(["mean", "", f"{accuracy[0]:.2%}", f"{loss[0]:.4f}", ""])
    lines.append(["deviation", "", f"{accuracy[1]:.2%}", f"{loss[1]:.4f}", ""])
    print_table(["fold", "rows", "accuracy", "loss", "time"], lines)
    say(f"Recorded in {folder}")
