"""``dlenv runs``: what was trained here, from the records that ``dlenv train`` and ``dlenv tune`` leave."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from dlenv.console import needs, print_json, print_table
from dlenv.errors import UsageError

if TYPE_CHECKING:
    from dlenv_models.runs import Run

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group()
def command() -> None:
    """List, show and compare what was trained.

    A run is a folder with run.json (parameters, environment, state of the repository, result) and metrics.jsonl (the
    figures of each epoch), as dlenv train and dlenv tune leave it.
    """


@command.command(
    "list",
    epilog="""\b
Examples:
  dlenv runs list                      what was trained in this folder
  dlenv runs list --sort validation_loss
  dlenv runs list runs/tune-spiral-mlp --json""",
)
@click.argument("root", type=_FOLDER, default=Path("runs"))
@click.option("--sort", metavar="FIGURE", help="By a figure of the result, best first. [default: by time]")
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
@needs("train")
def list_(root: Path, sort: str | None, as_json: bool) -> None:
    """List the runs below ROOT, the folder runs by default."""
    from dlenv_models import runs

    if not root.is_dir():
        raise UsageError(f"{root} is no folder; dlenv train makes one called runs where it is called, or name another")
    found = [(folder, run) for folder in runs.find(root) if (run := runs.read(folder)) is not None]
    if sort:
        known = sorted({key for _, run in found for key in run.result})
        if sort not in known:
            raise UsageError(f"sort: no run here has {sort!r}, but {', '.join(known) or 'nothing'}")
        having = [pair for pair in found if sort in pair[1].result]
        found = sorted(having, key=lambda pair: pair[1].result[sort], reverse=not sort.endswith("loss"))
    if as_json:
        print_json([{"folder": str(folder), **msgspec.to_builtins(run)} for folder, run in found])
        return
    if found:
        lines = [
            [
                str(folder.relative_to(root)),
                run.state,
                f"{run.architecture} on {run.data}",
                str(run.epochs),
                _percent(run.result.get("validation_accuracy")),
                _percent(run.result.get("test_accuracy")),
                run.model or "",
            ]
            for folder, run in found
        ]
        print_table(["run", "state", "what", "epochs", "validation", "held out", "model"], lines)


@command.command("show")
@click.argument("folder", type=_FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print the record and its figures as JSON.")
@needs("train")
def show(folder: Path, as_json: bool) -> None:
    """Show the run in FOLDER, such as runs/spiral-mlp-v1."""
    from dlenv_models import runs

    run = _read(folder)
    if as_json:
        print_json({"folder": str(folder), **msgspec.to_builtins(run), "metrics": runs.metrics(folder)})
        return
    git = f"{run.git.commit}{' and changes' if run.git.changed else ''}" if run.git else "none"
    rows = [["command", run.command], ["state", run.state], ["started", run.started], ["ended", run.ended or "-"]]
    rows += [["error", run.error]] if run.error else []
    rows += [["model", run.model or "none"], ["git", git], ["epochs that ran", str(run.epochs)]]
    for part in (run.result, run.parameters, run.environment):
        rows += [[key, _text(value)] for key, value in part.items()]
    print_table(["run", run.name], rows)


@command.command("compare")
@click.argument("folders", type=_FOLDER, nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
@needs("train")
def compare(folders: tuple[Path, ...], as_json: bool) -> None:
    """Show what differs between the runs in FOLDERS: parameters, environment and results."""
    if len(folders) < 2:
        raise UsageError(f"{folders[0]} alone can't be compared; name another run, too")
    flat = [_flat(_read(folder)) for folder in folders]
    keys = list(dict.fromkeys(key for each in flat for key in each))
    differing = [key for key in keys if any(each.get(key) != flat[0].get(key) for each in flat)]
    if as_json:
        print_json({key: [each.get(key) for each in flat] for key in differing})
        return
    rows = [[key, *(_text(each.get(key, "-")) for each in flat)] for key in differing]
    print_table(["differs in", *map(str, folders)], rows)


def _read(folder: Path) -> Run:
    from dlenv_models import runs

    run = runs.read(folder)
    if run is None:
        raise UsageError(f"{folder} has no run.json that can be read; dlenv runs list names the runs that there are")
    return run


def _flat(run: Run) -> dict[str, Any]:
    git = {"git": run.git.commit if run.git else None}
    what = {"architecture": run.architecture, "data": run.data, "state": run.state, "epochs": run.epochs}
    return {**what, **run.parameters, **run.environment, **git, **run.result}


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
