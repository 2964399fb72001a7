"""``dlenv models export``, ``import`` and ``card``: models for other programs and people, and weights of one's own."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dlenv import completion
from dlenv.console import command_line, needs, parse_reference, print_json, say
from dlenv.errors import UsageError
from dlenv.training_options import ARGUMENTS, what_to_train

if TYPE_CHECKING:
    from dlenv_models.data import Dataset
    from dlenv_models.manifest import Architecture, Preprocessing

_repository = click.option(
    "--repository", type=click.Path(path_type=Path), help="Model repository. [default: $DLENV_REPOSITORY, or your own]"
)
_ENDINGS = {"onnx": ".onnx", "torch-export": ".pt2"}


@click.command(
    epilog="""\b
Examples:
  dlenv models export mnist-lenet --format onnx
  dlenv models export mnist-lenet --format torch-export --output lenet.pt2"""
)
@click.argument("model", metavar="NAME[/VERSION]", shell_complete=completion.models)
@click.option("--format", "kind", type=click.Choice(list(_ENDINGS)), required=True, help="What to write.")
@click.option("--output", type=click.Path(path_type=Path), help="The file. [default: NAME-vVERSION.onnx, or .pt2]")
@_repository
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@needs("serve")
def export(model: str, kind: str, output: Path | None, repository: Path | None, as_json: bool) -> None:
    """Write a model as ONNX or as an exported PyTorch program (torch.export).

    It takes raw rows, such as pixels 0 to 255, and gives probabilities and labels, for any number of rows. Its answers
    are compared with the model's own before the file is kept.
    """
    import torch

    from dlenv_models.interchange import export as write
    from dlenv_models.repository import Repository
    from dlenv_service.engine import classify
    from dlenv_service.onnx_engine import sample
    from dlenv_service.tensors import DTYPES

    loaded = Repository(repository).load(*parse_reference(model))
    manifest, prepare = loaded.manifest, loaded.manifest.preprocessing
    target = output or Path(f"{manifest.name}-v{manifest.version}{_ENDINGS[kind]}")
    if target.exists():
        raise UsageError(f"{target} is there already; remove it, or name another file by --output")
    torch.set_num_threads(1)
    program = classify(loaded.module, manifest.row_shape, prepare.scale, prepare.mean, prepare.std)
    rows = torch.from_numpy(sample(manifest.row_shape, DTYPES[manifest.inputs[0].datatype], rows=8))
    off = write(program, rows, kind, target)
    if as_json:
        facts = {"model": manifest.name, "version": manifest.version, "format": kind, "file": str(target)}
        print_json({**facts, "bytes": target.stat().st_size, "largest_difference": off})
        return
    click.echo(target)
    say(f"Its probabilities are within {off:.1e} of the model's own.")


@click.command()
@click.argument("model", metavar="NAME[/VERSION]", shell_complete=completion.models)
@click.option("--output", type=click.Path(path_type=Path), help="Write it to this file. [default: standard output]")
@_repository
@needs("train")
def card(model: str, output: Path | None, repository: Path | None) -> None:
    """Print a model card in Markdown: what the model is, how good, how it was made, how it is used."""
    from dlenv_models.card import card as write
    from dlenv_models.repository import Repository

    entry = Repository(repository).entry(*parse_reference(model))
    assert entry.manifest is not None
    text = write(entry.manifest)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{output} can't be written: {error.strerror}") from None


def _numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        problem = f"{value!r} is not numbers with commas between them, such as 0.1307."
        raise click.BadParameter(problem, ctx, param) from None


@click.command(
    name="import",
    epilog="""\b
Example, for weights of the book's LeNet, trained on pixels from 0 to 1 and saved by safetensors.torch.save_file:
  dlenv models import lenet.safetensors --architecture lenet --channels 6,16 --activation sigmoid \\
      --data fashion-mnist --mean 0 --std 1 --name my-lenet""",
)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.safetensors")
@click.option("--architecture", required=True, metavar="NAME", shell_complete=completion.architectures)
@click.option(
    "--data",
    shell_complete=completion.data,
    required=True,
    metavar="NAME|DIR",
    help="What it was trained for: gives the classes and the shape of a row; its held-out rows measure the model.",
)
@click.option("--name", required=True, help="Name to publish under.")
@click.option("--scale", type=float, help="Pixels were multiplied by this first. [default: 1/255; 1 for rows]")
@click.option(
    "--mean", required=True, callback=_numbers, metavar="X[,X...]", help="Then this was subtracted (for each channel)."
)
@click.option("--std", required=True, callback=_numbers, metavar="X[,X...]", help="Then it was divided by this.")
@click.option(
    "--members",
    metavar="NAME,NAME...",
    help="ensemble: the architectures that vote, in the order of their tensors.",
)
@what_to_train
@click.option("--image-size", type=click.IntRange(8, 512), default=32, help="For a folder of images. [default: 32]")
@_repository
@click.option("--data-dir", type=click.Path(path_type=Path), help="Downloaded datasets. [default: $DLENV_DATA_DIR]")
@click.option("--mirror", metavar="URL", help="Download the dataset from here only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@needs("train")
def import_(file: Path, architecture: str, data: str, name: str, as_json: bool, **given: Any) -> None:
    """Publish weights of your own.

    FILE holds the state of a PyTorch module in safetensors format; nothing is unpickled. Its tensors have the names of
    dlenv's architecture, or the same shapes in the same order. The model is measured before it is published.
    """
    import torch

    from dlenv_models import threads
    from dlenv_models.data import load
    from dlenv_models.evaluation import measure
    from dlenv_models.interchange import imported
    from dlenv_models.manifest import Training
    from dlenv_models.repository import Repository

    repository = Repository(given["repository"], create=True)
    repository.check_writable()
    places = {key: given[key] for key in ("data_dir", "mirror", "image_size")}
    dataset = load(data, log=say, **places)
    arguments = {key: given[key] for key in ARGUMENTS if given[key] is not None}
    described = _architecture(architecture, dataset, arguments, given["members"])
    prepare = _preprocessing(dataset, given["scale"], given["mean"], given["std"])
    module, renamed = imported(file, described)
    for theirs, ours in renamed.items():
        say(f"{theirs} is taken for {ours}.")
    threads.use(architecture)
    metrics = measure(module, prepare, dataset.test, len(dataset.classes))
    words = ["--architecture", architecture, "--data", Path(data).name, "--name", name]
    words += ["--members", given["members"]] if given["members"] else []
    entry = repository.publish(
        name,
        module,
        architecture=described,
        classes=dataset.classes,
        preprocessing=prepare,
        data=dataset.info(),
        metrics=metrics,
        training=Training(
            command=command_line("dlenv", "models", "import", file.name, *words),
            seed=0,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            torch=torch.__version__,
            options={"imported": True},
        ),
    )
    if as_json:
        figures = {"test_accuracy": metrics.test_accuracy, "test_loss": metrics.test_loss}
        print_json({"model": entry.name, "version": entry.version, "path": str(entry.path), **figures})
        return
    click.echo(f"{entry.name}/{entry.version}")
    say(f"It calls {metrics.test_accuracy:.2%} of {len(dataset.test):,} held-out rows of {dataset.name} right.")


def _architecture(name: str, dataset: Dataset, arguments: dict[str, Any], members: str | None) -> Architecture:
    from dlenv_models.architectures import complete
    from dlenv_models.ensembles import members_of
    from dlenv_models.manifest import Architecture

    if (name == "ensemble") != (members is not None):
        hint = f"{name} has none; leave it out" if members else "say which vote, such as --members mlp,linear"
        raise UsageError(f"members: {hint}")
    if members is not None:
        arguments = {"members": members_of(members.split(","), arguments)}
    shape = {"input_shape": list(dataset.row_shape), "classes": len(dataset.classes)}
    try:
        return Architecture(name, complete(name, {**arguments, **shape}))
    except ValueError as error:
        raise UsageError(str(error)) from None


def _preprocessing(
    dataset: Dataset, scale: float | None, mean: tuple[float, ...], std: tuple[float, ...]
) -> Preprocessing:
    from dlenv_models.manifest import Preprocessing

    count = dataset.row_shape[0]
    for key, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, count):
            raise UsageError(f"{key}: {len(values)} numbers, where 1 or {count} belong")
    if min(std) <= 0:
        raise UsageError(f"std: {min(std):g} is not above 0")
    each = 1 / 255 if dataset.is_images else 1.0
    return Preprocessing(
        each if scale is None else scale,
        mean if len(mean) == count else mean * count,
        std if len(std) == count else std * count,
    )
