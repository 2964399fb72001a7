"""Measuring again what a manifest claims."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dlenv.errors import DataError, ModelInvalid
from dlenv_models.data import DATASETS, Dataset, Split, load
from dlenv_models.evaluation import measure
from dlenv_models.manifest import Manifest
from dlenv_models.repository import Entry, Repository

# Another processor rounds differently, which may turn a row that lies right on the boundary.
TOLERANCE = 0.005


@dataclass(frozen=True)
class Verdict:
    """``status`` is "ok", "failed" or "skipped", with the reason; ``measured`` the accuracy (0..1) if there is one."""

    name: str
    version: int
    status: str
    claimed: float | None
    measured: float | None
    reason: str


def verify(
    repository: Repository,
    entry: Entry,
    data_dir: Path | None = None,
    mirror: str | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> Verdict:
    """Check the weights' hash and the claimed accuracy on the held-out split; never raises for one bad model."""
    if entry.manifest is None:
        return Verdict(entry.name, entry.version, "failed", None, None, str(entry.problem))
    claimed = entry.manifest.metrics.test_accuracy

    def verdict(status: str, reason: str, measured: float | None = None) -> Verdict:
        return Verdict(entry.name, entry.version, status, claimed, measured, reason)

    try:
        model = repository.load(entry.name, entry.version)
    except ModelInvalid as error:
        return verdict("failed", str(error))
    name = entry.manifest.data.name
    if name not in DATASETS:  # never a path: a manifest does not choose what is read here
        return verdict("skipped", f"its data {name!r} is nobody's but yours; try `dlenv evaluate --data DIR`")
    try:
        dataset = load(name, data_dir=data_dir, mirror=mirror, log=log)
        held_out(dataset, entry.manifest)
    except DataError as error:
        return verdict("skipped", str(error))
    metrics = measure(model.module, model.manifest.preprocessing, dataset.test, len(dataset.classes))
    measured = metrics.test_accuracy
    if abs(measured - claimed) > TOLERANCE:
        return verdict("failed", f"claims {claimed:.2%}, but {measured:.2%} was measured", measured)
    return verdict("ok", "hash and accuracy are as claimed", measured)


def held_out(dataset: Dataset, manifest: Manifest) -> Split:
    """The dataset's test split; ``DataError`` where its rows or classes are not those of the model."""
    if dataset.row_shape != manifest.row_shape:
        given, taken = list(dataset.row_shape), list(manifest.row_shape)
        raise DataError(f"the rows of {dataset.name} have the shape {given}; the model {manifest.name} takes {taken}")
    if dataset.classes != manifest.classes:
        raise DataError(f"the classes of {dataset.name} are not those of the model {manifest.name}")
    return dataset.test
