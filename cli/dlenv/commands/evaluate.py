"""``dlenv evaluate``: a model on its held-out data, or on other data."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dlenv import completion
from dlenv.console import needs, parse_reference, print_json, print_table, say
from dlenv.errors import DlenvError, UsageError

if TYPE_CHECKING:
    from dlenv_models.data import Split
    from dlenv_models.manifest import Manifest


@click.command(
    epilog="""\b
Examples:
  dlenv evaluate mnist-lenet
  dlenv evaluate mnist-mlp --data my-digits --output runs     a folder with one folder of images for each class"""
)
@click.argument("model", metavar="NAME[/VERSION]", shell_complete=completion.models)
@click.option(
    "--data",
    shell_complete=completion.data,
    metavar="NAME|DIR",
    help="A dataset's held-out split, or every image in a folder of class folders. [default: the model's own dataset]",
)
@click.option(
    "--repository", type=click.Path(path_type=Path), help="Model repository. [default: $DLENV_REPOSITORY, or your own]"
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder for the confusion matrix as PNG.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Downloaded datasets. [default: $DLENV_DATA_DIR]")
@click.option("--mirror", metavar="URL", help="Download the dataset from here only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@needs("train")
def command(
    model: str,
    data: str | None,
    repository: Path | None,
    output: Path | None,
    data_dir: Path | None,
    mirror: str | None,
    as_json: bool,
) -> None:
    """Measure a model's accuracy, loss and confusion matrix on rows it has not seen."""
    from dlenv_models import threads
    from dlenv_models.evaluation import measure
    from dlenv_models.repository import Repository

    loaded = Repository(repository).load(*parse_reference(model))
    manifest = loaded.manifest
    split = _split(manifest, data, data_dir, mirror)
    threads.use(manifest.architecture.name)
    metrics = measure(loaded.module, manifest.preprocessing, split, len(manifest.classes))
    if output:
        from dlenv_models.plots import confusion_matrix

        try:
            output.mkdir(parents=True, exist_ok=True)
            say(f"Wrote {confusion_matrix(metrics, manifest.classes, output / 'confusion-matrix.png')}.")
        except OSError as error:
            raise DlenvError(f"the folder {output} can't be written: {error.strerror}") from None
    if as_json:
        facts = {"model": manifest.name, "version": manifest.version, "data": data or manifest.data.name}
        numbers = asdict(metrics)
        accuracy, loss = numbers.pop("test_accuracy"), numbers.pop("test_loss")
        print_json({**facts, "rows": len(split), "accuracy": accuracy, "loss": loss, **numbers})
        return
    say(
        f"{manifest.name}/{manifest.version} on {data or manifest.data.name}: accuracy {metrics.test_accuracy:.2%} "
        f"of {len(split):,} rows, loss {metrics.test_loss:.4f}"
    )
    rows = []
    for name, counts in zip(manifest.classes, metrics.confusion, strict=True):
        right, total = counts[manifest.classes.index(name)], sum(counts)
        rows.append([name, *map(str, counts), f"{right / total:.2%}" if total else "-"])
    print_table(["true \\ called", *manifest.classes, "right"], rows)


def _split(manifest: Manifest, data: str | None, data_dir: Path | None, mirror: str | None) -> Split:
    from dlenv_models.data import DATASETS, labelled, load
    from dlenv_models.verification import held_out

    name = data or manifest.data.name
    if data and data not in DATASETS and Path(data).is_dir():
        return labelled(Path(data), manifest.classes, manifest.row_shape)
    if data is None and name not in DATASETS:  # never a path: a manifest does not choose what is read here
        raise UsageError(f"the model's data {name!r} is no dataset of dlenv; name a folder or a dataset by --data")
    return held_out(load(name, data_dir=data_dir, mirror=mirror, log=say), manifest)
