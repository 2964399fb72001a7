"""``dlenv tune``: the best of many short trainings."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dlenv import completion
from dlenv.console import echo, needs, print_json, print_table, say
from dlenv.errors import DataError, UsageError
from dlenv.training_options import ARGUMENTS, OPTIONS, how_to_train

if TYPE_CHECKING:
    from dlenv_models.runs import Run
    from dlenv_models.space import Axis
    from dlenv_models.tuning import Search, Trial

# What is tried where nothing is named: what matters most for every architecture here.
_USUAL = {"lr": "log:0.0003..0.03", "batch_size": "32|64|128", "weight_decay": "0|0.0001|0.001"}
_SHOWN = 10  # trials in the table
_WHEN_RESUMED = ("resume", "jobs", "address", "track", "as_json")  # the other options are those of the search


@click.command(
    epilog="""\b
Examples:
  dlenv tune mlp --data spiral --vary hidden='16|64|64,64' --vary lr=log:0.001..0.1 --epochs 30
  dlenv tune lenet --data mnist5k --trials 12 --epochs 9 --jobs 2
  dlenv tune --resume runs/tune-spiral-mlp"""
)
@click.argument("architecture", required=False, metavar="ARCHITECTURE", shell_complete=completion.architectures)
@click.option("--data", metavar="NAME|DIR", shell_complete=completion.data, help="Dataset, as for dlenv train.")
@click.option(
    "--vary",
    multiple=True,
    metavar="OPTION=VALUES",
    help="What to search: lr=log:0.0001..0.1 (every factor as likely), dropout=0..0.5, hidden='64|128,64'. "
    "[default: lr, batch_size and weight_decay]",
)
@click.option("--trials", type=click.IntRange(2, 100_000), default=16, show_default=True, help="Points to try.")
@click.option(
    "--scheduler",
    type=click.Choice(["asha", "none"]),
    default="asha",
    show_default=True,
    help="asha: only the better third of the trials goes on after 1, 3, 9 ... times --grace epochs.",
)
@click.option("--grace", type=click.IntRange(1), default=2, show_default=True, help="Epochs that every trial has.")
@click.option(
    "--jobs",
    type=click.IntRange(1, 4096),
    help="Trials at once. [default: as many as the machine or the cluster has room for]",
)
@click.option("--address", metavar="ADDRESS", help="Of an existing Ray cluster. [default: one of its own, here]")
@how_to_train
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads of a trial. [default: 1]")
@click.option("--image-size", type=click.IntRange(8, 512), default=32, help="For a folder of images. [default: 32]")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where downloaded datasets are kept.")
@click.option("--mirror", metavar="URL", help="Download the dataset from here only.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder. [default: runs/tune-DATA-ARCHITECTURE]")
@click.option(
    "--resume", type=click.Path(file_okay=False, path_type=Path), help="Go on with the search in this folder."
)
@click.option(
    "--track",
    multiple=True,
    metavar="tensorboard|mlflow[:WHERE]",
    help="Tell TensorBoard (a folder) or MLflow (an address) of each trial, too.",
)
@click.option("--json", "as_json", is_flag=True, help="Print every trial as JSON.")
@click.pass_context
@needs("train,tune")
def command(ctx: click.Context, /, architecture: str | None, resume: Path | None, **given: Any) -> None:
    """Search for good options: train many times, each a little, and go on with the best.

    Every other option of dlenv train is the same for all trials. The folder keeps a record of each trial (dlenv runs
    list FOLDER). What counts is the loss on the validation split; the held-out data are not touched. At the end you get
    the command that trains the best one. Needs the extra tune (Ray Tune).
    """
    from dlenv_models import trackers, tuning

    if resume is not None:
        _check_resumed(ctx)
        folder, search = resume, tuning.Search.read(resume)
    else:
        search = _search(ctx, architecture, given)
        folder = given["output"] or Path("runs") / f"tune-{Path(search.data).name}-{search.architecture}"
        if (folder / tuning.SEARCH).exists():
            raise UsageError(f"{folder} holds a search already; go on with it by --resume, or name another by --output")
    for wanted in given["track"]:
        trackers.check(wanted, folder.name)
    if resume is None:
        search.write(folder)
    waiting = len(tuning.left(search, folder))
    # Of a cluster, Ray itself takes as much as there is.
    jobs = min(given["jobs"] or (waiting if given["address"] else _jobs(search)), waiting) or 1
    say(f"Tuning {search.architecture} on {search.data}: {waiting} of {len(search.trials)} trials, {jobs} at once")

    done = len(search.trials) - waiting

    def on_end(trial: Trial, run: Run) -> None:
        nonlocal done
        done += 1
        say(f"[{done}/{len(search.trials)}] {_points(trial.parameters)}: {_outcome(run)}")

    found = tuning.go_on(
        search,
        folder,
        jobs=jobs,
        address=given["address"],
        command=lambda trial: _command_line(search, trial),
        on_end=on_end,
        track=given["track"],
        log=say,
    )
    _report(search, folder, found, given["as_json"])
    if tuning.left(search, folder):
        say(f"Cut off; go on by: dlenv tune --resume {shlex.quote(str(folder))}")
        raise KeyboardInterrupt
    if not any(tuning.FIGURE in run.result for _, run in found):
        reason = next(run.error for _, run in found if run.error)
        raise DataError(f"no trial came to a result; the first failed: {reason}")


def _check_resumed(ctx: click.Context) -> None:
    """Raise ``UsageError`` for an option that a search which goes on can't have otherwise."""
    for param in ctx.command.params:
        key = str(param.name)
        given = ctx.get_parameter_source(key) is not ParameterSource.DEFAULT
        if given and ctx.params[key] is not None and key not in _WHEN_RESUMED:
            name = param.opts[0] if isinstance(param, click.Option) else param.make_metavar(ctx)
            raise UsageError(f"resume: the folder says what is searched; leave out {name}")


def _search(ctx: click.Context, architecture: str | None, given: Mapping[str, Any]) -> Search:
    from dlenv_models import space, threads, tuning
    from dlenv_models.architectures import ARCHITECTURES
    from dlenv_models.data import load
    from dlenv_models.options import check, recipe

    if architecture is None or given["data"] is None:
        raise UsageError("what to tune is missing: dlenv tune ARCHITECTURE --data NAME, or --resume FOLDER")
    if architecture not in ARCHITECTURES or architecture == "ensemble":
        able = ", ".join(name for name in ARCHITECTURES if name != "ensemble")
        raise UsageError(f"architecture: {architecture!r} is not one of {able}")
    each = [_axis(ctx, text) for text in given["vary"] or [f"{key}={text}" for key, text in _USUAL.items()]]
    axes = dict(each)
    if len(axes) < len(each):
        raise UsageError(f"vary: {', '.join(sorted(name for name, _ in each))}: name each option once")
    fixed = {key: given[key] for key in (*OPTIONS, *ARGUMENTS) if given[key] is not None}
    if str(fixed.get("device", "cpu")) not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device: each trial gets a GPU of its own; {fixed['device']!r} is not cpu, cuda or mps")
    if both := fixed.keys() & axes.keys():
        raise UsageError(f"vary: {', '.join(sorted(both))} is set as well; leave one of the two out")
    seed = fixed.get("seed", 0)
    places = {key: given[key] for key in ("data_dir", "mirror") if given[key] is not None}
    dataset = load(given["data"], seed=seed, image_size=given["image_size"], log=say, **places)
    usual = recipe(architecture, dataset)
    if given["address"] is None:  # else the device is another machine's
        check(architecture, replace(usual, device=fixed.get("device", "cpu")), dataset)
    epochs = fixed.get("epochs", usual.epochs)
    if ctx.get_parameter_source("grace") is not ParameterSource.DEFAULT and not given["grace"] < epochs:
        raise UsageError(f"grace: no trial could be stopped in {epochs} epochs after {given['grace']}; take fewer")
    trials = tuple(
        tuning.Trial(number=number, parameters=point)
        for number, point in enumerate(space.draw(axes, given["trials"], seed), 1)
    )
    for trial in trials:  # before hours are spent
        tuning.check(architecture, dataset, usual, {**fixed, **trial.parameters})
    return tuning.Search(
        command=shlex.join(["dlenv", "tune", architecture, "--data", given["data"]]),
        architecture=architecture,
        data=given["data"] if given["data"] == dataset.name else str(Path(given["data"]).resolve()),
        data_dir=str(given["data_dir"].resolve()) if given["data_dir"] else None,
        mirror=given["mirror"],
        image_size=given["image_size"],
        fixed=fixed,
        vary={name: text for name, _, text in (each.partition("=") for each in given["vary"])} or _USUAL,
        scheduler=given["scheduler"],
        epochs=epochs,
        grace=given["grace"],
        threads=threads.use(architecture, given["threads"] or 1),
        gpu=str(fixed.get("device", "cpu")).startswith("cuda"),
        trials=trials,
    )


def _axis(ctx: click.Context, text: str) -> tuple[str, Axis]:
    """``lr=log:0.001..0.1``: an option of the training, and its values as that option reads them."""
    from dlenv_models import space
    from dlenv_models._check import did_you_mean

    name, equals, values = text.partition("=")
    name = name.replace("-", "_")
    able = [each for each in (*OPTIONS, *ARGUMENTS) if each not in ("epochs", "seed", "device")]
    if not equals or name not in able:
        raise UsageError(f"vary: {text!r} is not OPTION=VALUES with one of {', '.join(able)}{did_you_mean(name, able)}")
    option = next(each for each in ctx.command.params if each.name == name)

    def parse(value: str) -> Any:
        try:
            return option.process_value(ctx, value)
        except click.BadParameter as error:
            raise ValueError(f"{name}: {error.message}") from None

    try:
        return name, space.axis(name, values, parse)
    except ValueError as error:
        raise UsageError(f"vary: {error}") from None


def _jobs(search: Search) -> int:
    """As many as there are GPUs, or as the cores and the memory of this machine allow."""
    if search.gpu:
        import torch

        return max(1, torch.cuda.device_count())
    from dlenv.machine import system
    from dlenv_models.own_ray import fitting

    return max(1, min(system.cpus(Path("/")) // search.threads, fitting()))


def _command_line(search: Search, trial: Trial) -> str:
    """What trains this trial alone, to the end, and publishes it."""
    words = ["dlenv", "train", search.architecture, "--data", search.data]
    if Path(search.data).is_absolute():
        words += ["--image-size", str(search.image_size)]
    for flag, place in (("--data-dir", search.data_dir), ("--mirror", search.mirror)):
        words += [flag, place] if place else []
    for key, value in {**search.fixed, **trial.parameters}.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return shlex.join(words)


def _points(parameters: Mapping[str, Any]) -> str:
    return " ".join(
        f"{key}={','.join(map(str, value)) if isinstance(value, list) else value}" for key, value in parameters.items()
    )


def _outcome(run: Run) -> str:
    if run.state == "failed":
        return f"failed: {run.error}"
    loss, accuracy = run.result.get("validation_loss"), run.result.get("validation_accuracy")
    if loss is None or accuracy is None:
        return run.state
    stopped = ", stopped" if run.state == "stopped" else ""
    return f"loss {loss:.4f}, accuracy {accuracy:.2%} after {run.epochs} epochs{stopped}"


def _report(search: Search, folder: Path, found: list[tuple[Trial, Run]], as_json: bool) -> None:
    done = [(trial, run) for trial, run in found if "validation_loss" in run.result]
    best = _command_line(search, done[0][0]) if done else None
    if as_json:
        trials = [
            {"number": t.number, "parameters": t.parameters, "state": run.state, "epochs": run.epochs, **run.result}
            for t, run in found
        ]
        print_json({"folder": str(folder), "best": best, "trials": trials})
        return
    rows = [
        [
            str(trial.number),
            run.state,
            str(run.epochs),
            f"{run.result['validation_loss']:.4f}",
            f"{run.result['validation_accuracy']:.2%}",
            _points(trial.parameters),
        ]
        for trial, run in done[:_SHOWN]
    ]
    print_table(["trial", "state", "epochs", "loss", "accuracy", "options"], rows)
    if best:
        echo(f"The best, trained to the end and published: {best}")
