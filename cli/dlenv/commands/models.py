"""``dlenv models``: list, show, remove and verify what lies in the repository."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from dlenv import completion
from dlenv.commands import models_exchange
from dlenv.console import confirm, needs, parse_reference, print_json, print_table, say
from dlenv.errors import ModelNotFound

_repository = click.option(
    "--repository", type=click.Path(path_type=Path), help="Model repository. [default: $DLENV_REPOSITORY, or your own]"
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(
    short_help="List, show, check and remove the models in the repository.",
    epilog="""\b
Examples:
  dlenv models list
  dlenv models show mnist-lenet
  dlenv models card mnist-lenet        a model card in Markdown
  dlenv models export mnist-lenet --format onnx
  dlenv models verify                  hashes, and accuracies measured again""",
)
def command() -> None:
    """List, show, check, exchange and remove models: your own and those that ship with dlenv."""


for _each in (models_exchange.export, models_exchange.import_, models_exchange.card):
    command.add_command(_each)


@command.command(name="list")
@_repository
@_json
@needs("train")
def list_(repository: Path | None, as_json: bool) -> None:
    """List every model, also those that are refused, with the reason."""
    from dlenv_models.repository import Repository

    entries = Repository(repository).entries()
    if as_json:
        print_json(
            [
                {
                    "name": entry.name,
                    "version": entry.version,
                    "shipped": entry.shipped,
                    "architecture": entry.manifest.architecture.name if entry.manifest else None,
                    "data": entry.manifest.data.name if entry.manifest else None,
                    "test_accuracy": entry.manifest.metrics.test_accuracy if entry.manifest else None,
                    "problem": entry.problem,
                }
                for entry in entries
            ]
        )
        return
    rows = []
    for entry in entries:
        origin = "dlenv" if entry.shipped else "yours"
        facts = ["", "", "", f"refused: {entry.problem}"]
        if manifest := entry.manifest:
            accuracy = f"{manifest.metrics.test_accuracy:.2%}"
            facts = [manifest.architecture.name, manifest.data.name, accuracy, "ok"]
        rows.append([entry.name, str(entry.version), origin, *facts])
    print_table(["model", "version", "origin", "architecture", "data", "accuracy", "state"], rows)


@command.command()
@click.argument("model", metavar="NAME[/VERSION]", shell_complete=completion.models)
@_repository
@_json
@needs("train")
def show(model: str, repository: Path | None, as_json: bool) -> None:
    """Show what a model is, what it takes and gives, how good it is and how it was made."""
    from dlenv_models.repository import Repository

    entry = Repository(repository).entry(*parse_reference(model))
    assert entry.manifest is not None
    manifest = entry.manifest
    if as_json:
        print_json(manifest.to_json())
        return
    arguments = ", ".join(f"{key}={value}" for key, value in manifest.architecture.arguments.items())
    weights = manifest.files["model.safetensors"]
    data, metrics, training = manifest.data, manifest.metrics, manifest.training
    rows = [
        ["model", f"{manifest.name}/{manifest.version}"],
        ["folder", str(entry.path)],
        ["architecture", f"{manifest.architecture.name} ({arguments})"],
        *([f"takes {spec.name}", f"{spec.datatype} {list(spec.shape)}"] for spec in manifest.inputs),
        *([f"gives {spec.name}", f"{spec.datatype} {list(spec.shape)}"] for spec in manifest.outputs),
        ["classes", ", ".join(manifest.classes)],
        ["held-out accuracy", f"{metrics.test_accuracy:.2%} of {data.test} rows (loss {metrics.test_loss:.4f})"],
        ["data", f"{data.name}: {data.train} training and {data.validation} validation rows"],
        ["data source", data.source],
        ["data licence", data.license],
        ["made by", training.command],
        ["made on", f"{training.created}, PyTorch {training.torch}"],
        ["weights", f"{weights.bytes:,} bytes, SHA-256 {weights.sha256}"],
    ]
    print_table(["what", "value"], rows)


@command.command()
@click.argument("model", metavar="NAME[/VERSION]", shell_complete=completion.models)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_repository
@needs("train")
def remove(model: str, yes: bool, repository: Path | None) -> None:
    """Remove one version of a model, or all of them, from your repository."""
    from dlenv_models.repository import Repository

    lent = Repository(repository)
    name, version = parse_reference(model)
    mine = [e for e in lent.entries() if e.name == name and version in (None, e.version) and not e.shipped]
    if mine and not yes:
        versions = ", ".join(str(entry.version) for entry in mine)
        confirm(f"Remove {name}, version {versions}, from {lent.user_root}?", abort=True)
    for entry in lent.remove(name, version):
        say(f"Removed {entry.name}/{entry.version}.")


@command.command()
@click.argument("models", metavar="[NAME[/VERSION]]...", nargs=-1, shell_complete=completion.models)
@_repository
@click.option("--data-dir", type=click.Path(path_type=Path), help="Downloaded datasets. [default: $DLENV_DATA_DIR]")
@click.option("--mirror", metavar="URL", help="Download datasets from here only.")
@_json
@needs("train")
def verify(
    models: tuple[str, ...], repository: Path | None, data_dir: Path | None, mirror: str | None, as_json: bool
) -> int:
    """Check each model's hash, and measure again the accuracy that it claims.

    Exit code 1 if a model fails. A model whose data can't be had is skipped, with the reason.
    """
    from dlenv_models import threads
    from dlenv_models.repository import Repository
    from dlenv_models.verification import verify as examine

    lent = Repository(repository)
    entries = lent.entries()
    if models:
        wanted = [parse_reference(model) for model in models]
        for name, version in wanted:
            if not any(entry.name == name and version in (None, entry.version) for entry in entries):
                lent.entry(name, version)  # raises, and says what there is
        entries = [e for e in entries if (e.name, e.version) in wanted or (e.name, None) in wanted]
    if not entries:
        raise ModelNotFound("there is no model to verify; `dlenv train` makes one")
    verdicts = []
    for entry in entries:
        if entry.manifest is not None:
            threads.use(entry.manifest.architecture.name)
        verdicts.append(examine(lent, entry, data_dir, mirror, say))
    if as_json:
        print_json([asdict(verdict) for verdict in verdicts])
    else:
        rows = [
            [
                f"{verdict.name}/{verdict.version}",
                verdict.status,
                *(f"{x:.2%}" if x is not None else "" for x in (verdict.claimed, verdict.measured)),
                verdict.reason,
            ]
            for verdict in verdicts
        ]
        print_table(["model", "status", "claimed", "measured", "reason"], rows)
    return int(any(verdict.status == "failed" for verdict in verdicts))
