"""``dlenv train``: data, training, measurement, pictures, publication."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dlenv import completion
from dlenv.commands import train_run
from dlenv.commands.train_folds import check_folds, cross_validate, report_folds
from dlenv.console import needs, print_json, print_table, say
from dlenv.errors import DlenvError, UsageError
from dlenv.training_options import ARGUMENTS, OPTIONS, how_to_train

if TYPE_CHECKING:
    from dlenv_models.data import Dataset
    from dlenv_models.manifest import Metrics
    from dlenv_models.repository import Entry
    from dlenv_models.training import Trained

# They say where things lie on this machine, so they don't belong into the command that a manifest shows.
_LOCAL = ("repository", "output", "data_dir", "mirror", "track", "address", "storage", "as_json")


@click.command(
    epilog="""\b
Examples:
  dlenv train mlp --data spiral
  dlenv train lenet --data mnist5k --name my-lenet --epochs 20
  dlenv train mlp --data mnist5k --hidden 256,128 --dropout 0.3 --patience 5
  dlenv train lenet --data my-pictures/ --image-size 28"""
)
@click.argument("architecture", metavar="ARCHITECTURE", shell_complete=completion.architectures)
@click.option(
    "--data",
    shell_complete=completion.data,
    required=True,
    metavar="NAME|DIR",
    help="Dataset: spiral, digits, mnist5k, mnist, fashion-mnist, cifar10, or a folder with one folder of images "
    "for each class.",
)
@click.option("--name", help="Name to publish under. [default: DATA-ARCHITECTURE]")
@click.option("--members", metavar="NAME,NAME...", help="ensemble: the architectures that vote. [default: mlp,mlp,mlp]")
@click.option(
    "--folds",
    type=click.IntRange(2, 50),
    metavar="K",
    help="Cross-validate: train K models, each without one part of the data, measure each on that part, and publish "
    "none.",
)
@click.option(
    "--workers",
    type=click.IntRange(2, 1024),
    help="Share each batch out among so many processes, by Ray Train (extra tune): the same result, sooner where a "
    "step takes long. With --device cuda each has a GPU.",
)
@click.option("--address", help="--workers: of an existing Ray cluster. [default: processes here]")
@click.option("--storage", metavar="DIR|URI", help="--workers: for checkpoints, a place that all machines reach.")
@how_to_train
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="CPU threads of one operator. [default: 1; every core for alexnet, vgg, nin, resnet18]",
)
@click.option("--image-size", type=click.IntRange(8, 512), default=32, help="For a folder of images. [default: 32]")
@click.option(
    "--repository", type=click.Path(path_type=Path), help="Model repository. [default: $DLENV_REPOSITORY, or your own]"
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for the pictures and the history. [default: runs/NAME-vVERSION]",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Where downloaded datasets are kept. [default: $DLENV_DATA_DIR, or a folder in your cache]",
)
@click.option("--mirror", metavar="URL", help="Download the dataset from here only.")
@click.option(
    "--track",
    multiple=True,
    metavar="tensorboard|mlflow[:WHERE]",
    help="Tell TensorBoard (a folder) or MLflow (an address) of the run, too; its record is in the output folder "
    "anyway: dlenv runs.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
@needs("train")
def command(ctx: click.Context, /, architecture: str, data: str, name: str | None, **given: Any) -> None:
    """Train a classifier and publish it to the model repository.

    ARCHITECTURE is linear, mlp, lenet, alexnet, vgg, nin, resnet18, lstm, autoencoder, rbm, dbn or ensemble. The
    defaults give good results for spiral, digits and mnist5k. The same seed on the same machine gives the same weights.
    """
    from dlenv_models import runs, threads
    from dlenv_models.architectures import ARCHITECTURES
    from dlenv_models.data import load
    from dlenv_models.evaluation import measure
    from dlenv_models.repository import Repository

    _check_architecture(architecture, ARCHITECTURES)
    train_run.check_workers(architecture, given)
    name = _name(name, data, architecture)
    # All that can be wrong with the places is found before any time goes into training.
    repository = Repository(given["repository"], create=True)
    if not given["folds"]:
        repository.check_writable()
    _check_output(given["output"] or Path("runs"))
    places = {key: given[key] for key in ("data_dir", "mirror", "image_size")}
    dataset = load(data, seed=_seed(given["seed"]), log=say, **places)
    options = {key: given[key] for key in OPTIONS if given[key] is not None}
    arguments = {key: given[key] for key in ARGUMENTS if given[key] is not None}
    members = _members(architecture, given["members"])
    threads.use(architecture, given["threads"])

    line = _command_line(ctx)
    more = {key: value for key, value in (("members", members), ("folds", given["folds"])) if value}
    if given["folds"]:
        check_folds(architecture, dataset, given["folds"])
    train_run.check(architecture, members, dataset, options, arguments, given)
    recorder = train_run.recorder(name, line, architecture, dataset, {**more, **options, **arguments}, given)
    if given["folds"]:
        with runs.ended(recorder):
            table = cross_validate(architecture, dataset, options, arguments, given["folds"], recorder)
        recorder.move(given["output"] or runs.free(Path("runs") / f"{name}-folds"))
        report_folds(table, recorder.folder, given["as_json"])
        return
    with runs.ended(recorder):
        trained = train_run.train(architecture, members, dataset, options, arguments, recorder, given)
        metrics = measure(trained.module, trained.preprocessing, dataset.test, len(dataset.classes))
        entry = _publish(repository, name, dataset, trained, metrics, _seed(given["seed"]), line)
        speed = train_run.speed(trained, given["workers"])
        # With patience those of the epoch that was kept, and of an ensemble its own, not its last member's.
        chosen = measure(trained.module, trained.preprocessing, dataset.validation, len(dataset.classes))
        validated = {"validation_accuracy": chosen.test_accuracy, "validation_loss": chosen.test_loss}
        result = {"test_accuracy": metrics.test_accuracy, "test_loss": metrics.test_loss, **validated, **speed}
        took = {**trained.architecture.arguments, **trained.options, "seed": _seed(given["seed"])}
        recorder.end("finished", result=result, model=f"{entry.name}/{entry.version}", parameters=took)
    folder = given["output"] or runs.free(Path("runs") / f"{entry.name}-v{entry.version}")
    files = [*_draw(folder, dataset, trained, metrics), *recorder.move(folder)]
    _report(entry, dataset, trained, result, files, given["as_json"])


def _publish(
    repository: Any, name: str, dataset: Dataset, trained: Trained, metrics: Metrics, seed: int, line: str
) -> Entry:
    import torch

    from dlenv_models.manifest import Training

    entry: Entry = repository.publish(
        name,
        trained.module,
        architecture=trained.architecture,
        classes=dataset.classes,
        preprocessing=trained.preprocessing,
        data=dataset.info(),
        metrics=metrics,
        training=Training(
            command=line,
            seed=seed,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            torch=torch.__version__,
            options={
                **trained.options,
                "threads": torch.get_num_threads(),
                "epochs_run": len(trained.history),
                "seconds": round(trained.seconds, 1),
            },
        ),
    )
    return entry


def _draw(folder: Path, dataset: Dataset, trained: Trained, metrics: Metrics) -> list[Path]:
    from dlenv_models import plots

    try:
        folder.mkdir(parents=True, exist_ok=True)
        return plots.of_training(trained, metrics, dataset, folder)
    except OSError as error:
        raise DlenvError(f"the model is published, but {folder} can't be written: {error.strerror}") from None


def _report(
    entry: Entry,
    dataset: Dataset,
    trained: Trained,
    result: Mapping[str, float],
    files: Sequence[Path],
    as_json: bool,
) -> None:
    last = trained.history[-1]
    if as_json:
        print_json(
            {
                "model": entry.name,
                "version": entry.version,
                "path": str(entry.path),
                **result,
                "train_accuracy": last.train_accuracy,
                "epochs": len(trained.history),
                "seconds": trained.seconds,
                "files": [str(path) for path in files],
            }
        )
        return
    rows = [
        ["model", f"{entry.name}/{entry.version}"],
        ["held-out accuracy", f"{result['test_accuracy']:.2%} of {len(dataset.test):,} rows"],
        ["held-out loss", f"{result['test_loss']:.4f}"],
        ["validation accuracy", f"{result['validation_accuracy']:.2%}"],
        ["training accuracy", f"{last.train_accuracy:.2%}"],
        ["parameters", f"{sum(weights.numel() for weights in trained.module.parameters()):,}"],
        ["epochs", str(len(trained.history))],
        ["time", f"{trained.seconds:.1f} s"],
        ["speed", _speed(result)],
        ["published to", str(entry.path)],
        ["pictures in", str(files[0].parent)],
    ]
    print_table(["result", "value"], rows)


def _speed(speed: Mapping[str, float]) -> str:
    together, each = speed["rows_per_second"], speed.get("rows_per_second_per_worker")
    shares = f" in all, {each:,.0f} by each of {together / each:.0f} workers" if each else ""
    return f"{together:,.0f} rows/s{shares}"


def _check_architecture(name: str, known: Any) -> None:
    from dlenv_models._check import choice

    try:
        choice(name, "architecture", known)
    except ValueError as error:
        raise UsageError(f"{error}") from None


def _members(architecture: str, given: str | None) -> list[str]:
    if architecture != "ensemble":
        if given is not None:
            raise UsageError(f"members: {architecture} has none; train ensemble to have several vote")
        return []
    return ("mlp,mlp,mlp" if given is None else given).split(",")


def _name(name: str | None, data: str, architecture: str) -> str:
    from dlenv_models.manifest import model_name

    try:
        return model_name(f"{Path(data).resolve().name}-{architecture}" if name is None else name)
    except ValueError as error:
        raise UsageError(f"{error}; choose one by --name") from None


def _seed(seed: int | None) -> int:
    if seed is not None and not 0 <= seed < 2**32:
        raise UsageError(f"seed: {seed} is not between 0 and {2**32 - 1}")
    return seed or 0


def _check_output(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = error.strerror
        raise UsageError(f"the folder {folder} can't be written ({reason}); choose another by --output") from None


def _command_line(ctx: click.Context) -> str:
    """The command with the options that were given, but for places on this machine."""
    words = ["dlenv", "train", ctx.params["architecture"]]
    for param in ctx.command.params:
        key = str(param.name)
        if key in _LOCAL or key == "architecture" or ctx.get_parameter_source(key) is ParameterSource.DEFAULT:
            continue
        value = ctx.params[key]
        if key == "data":
            value = Path(value).name
        if isinstance(value, bool):
            words.append(param.opts[0] if value else param.secondary_opts[0])
        else:
            words += [param.opts[0], ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return shlex.join(words)
