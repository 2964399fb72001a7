"""Searching for good options with Ray Tune: many short trainings at once, those without prospects stopped early.

The engine is Ray Tune; what is kept is dlenv's: a folder with ``tune.json`` (the search) and a record of each trial
(:mod:`dlenv_models.runs`). Ray's own notes, which only Ray can read, and by unpickling, are thrown away at the end. A
search that was cut off goes on with the trials that have no result; they begin anew. Ray's way to go on
(``Tuner.restore``) keeps no scheduler's memory, so that the first trials afterwards would be compared with nobody: here
it is told again, from the records, what the trials with a result have reported.

ASHA (Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020; d2l 19.5): after 1, 3, 9 ... times
``grace`` epochs only the best third of the trials goes on.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from filelock import FileLock, Timeout

from dlenv.errors import DlenvError, UsageError
from dlenv_models import runs, training, trials
from dlenv_models.data import Dataset
from dlenv_models.options import Options
from dlenv_models.own_ray import ray_for, room
from dlenv_models.runs import Run
from dlenv_models.trials import FIGURE, trial_folder

__all__ = ["FIGURE", "Search", "Trial", "check", "go_on", "left", "trial_folder"]

SEARCH = "tune.json"
REDUCTION = 3  # ASHA's eta
_EPOCH = "training_iteration"  # Ray's name for it
DONE = ("finished", "stopped", "failed")


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One point of the space."""

    number: int  # from 1
    parameters: dict[str, Any]


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """What is searched, and how; enough to go on after a crash."""

    schema: int = 1
    command: str
    architecture: str
    data: str
    data_dir: str | None  # on this machine
    mirror: str | None
    image_size: int
    fixed: dict[str, Any]  # options and arguments that every trial has
    vary: dict[str, str]  # as they were written
    scheduler: str  # "asha" or "none"
    epochs: int
    grace: int  # epochs that every trial has
    threads: int  # CPU threads of a trial
    gpu: bool
    trials: tuple[Trial, ...]

    def write(self, folder: Path) -> None:
        """Put it into ``folder``; raises ``DlenvError`` where that can't be written."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            scratch = folder / f".{SEARCH}.tmp"
            scratch.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")
            scratch.replace(folder / SEARCH)
        except OSError as error:
            raise DlenvError(f"{folder} can't be written ({error.strerror}); choose another by --output") from None

    @staticmethod
    def read(folder: Path) -> Search:
        """The search in ``folder``; raises ``UsageError`` where there is none that can be read."""
        try:
            return msgspec.json.decode((folder / SEARCH).read_bytes(), type=Search)
        except OSError as error:
            raise UsageError(f"{folder} holds no search that can go on: {error.strerror}") from None
        except msgspec.MsgspecError as error:
            raise UsageError(f"{folder} holds no search that can go on: {error}") from None


def check(architecture: str, dataset: Dataset, usual: Options, parameters: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` naming what of a trial's parameters can't be used, before anything is trained."""
    options, arguments = split(parameters)
    chosen = replace(usual, **{**options, "device": "cpu"})  # own_ray.room looks for GPUs where the trials will be
    training.check(architecture, chosen, dataset)
    training.describe(architecture, dataset, chosen, arguments)


def left(search: Search, folder: Path) -> list[Trial]:
    """The trials that have no result yet."""
    known = {trial.number: runs.read(trial_folder(folder, trial.number)) for trial in search.trials}
    return [trial for trial in search.trials if (run := known[trial.number]) is None or run.state not in DONE]


def go_on(
    search: Search,
    folder: Path,
    *,
    jobs: int,
    address: str | None = None,
    command: Callable[[Trial], str],
    on_end: Callable[[Trial, Run], None] = lambda _trial, _run: None,
    track: Sequence[str] = (),
    log: Callable[[str], None] = lambda _: None,
) -> list[tuple[Trial, Run]]:
    """Run the trials that are left, ``jobs`` at once, and give every trial with its record, the best first.

    ``address``: an existing Ray cluster's, else one is started here and ended. ``command`` gives the command that
    trains a trial alone; ``track`` are the trackers that each trial has, ``log`` is told where one fails.

    An interruption (Ctrl-C) ends the trials that run, which a later call begins anew.

    Raises ``DlenvError`` where Ray can't be had.
    """
    recording = partial(trials.recording, search, folder, command=command, on_end=on_end, track=track, log=log)
    lock = FileLock(folder / ".lock")
    try:
        with lock.acquire(timeout=0):
            if wanted := left(search, folder):
                _run(search, folder, wanted, min(jobs, len(wanted)), address, recording)
    except Timeout:
        raise UsageError(f"another dlenv tune is at work in {folder}; wait for its end") from None
    found = [(trial, run) for trial in search.trials if (run := runs.read(trial_folder(folder, trial.number)))]
    return sorted(found, key=lambda pair: pair[1].result.get(FIGURE, float("inf")))


def _run(
    search: Search,
    folder: Path,
    wanted: Sequence[Trial],
    jobs: int,
    address: str | None,
    recording: Callable[[], Any],
) -> None:
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its live table; ours says what ends
    with ray_for("search", cpus=jobs * search.threads, address=address, processes=jobs):
        room(cpus=search.threads, gpus=1 if search.gpu else 0)
        _fit(search, folder, wanted, jobs, recording())


def _fit(
    search: Search,
    folder: Path,
    wanted: Sequence[Trial],
    jobs: int,
    recording: Any,
) -> None:
    from ray import tune

    resources = {"cpu": search.threads, **({"gpu": 1} if search.gpu else {})}
    try:
        with tempfile.TemporaryDirectory(prefix="dlenv-tune-") as scratch:
            tuner = tune.Tuner(
                tune.with_resources(_trainable(search), resources),
                param_space={"number": tune.grid_search([trial.number for trial in wanted]), "parameters": None},
                tune_config=tune.TuneConfig(
                    scheduler=_scheduler(search, folder), max_concurrent_trials=jobs, reuse_actors=False
                ),
                run_config=tune.RunConfig(
                    name="search",
                    storage_path=scratch,
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=1),  # a worker that was killed, for instance
                    callbacks=[recording],
                ),
            )
            tuner.fit()
    finally:
        recording.close()


def _scheduler(search: Search, folder: Path) -> Any:
    """What stops trials without prospects, with all in mind that the trials with a result have reported."""
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if search.scheduler != "asha" or search.grace >= search.epochs:
        return FIFOScheduler()
    scheduler = ASHAScheduler(
        time_attr=_EPOCH,
        metric=FIGURE,
        mode="min",
        max_t=search.epochs,
        grace_period=search.grace,
        reduction_factor=REDUCTION,
    )
    waiting = {trial.number for trial in left(search, folder)}
    for trial in search.trials:
        reported = [] if trial.number in waiting else runs.metrics(trial_folder(folder, trial.number))
        if reported:
            known = SimpleNamespace(trial_id=f"recorded-{trial.number}")  # all of a trial that this scheduler looks at
            results = [{_EPOCH: number, FIGURE: figures[FIGURE]} for number, figures in enumerate(reported, 1)]
            scheduler.on_trial_add(None, known)
            for result in results:
                scheduler.on_trial_result(None, known, result)
            scheduler.on_trial_complete(None, known, results[-1])
    return scheduler


def _trainable(search: Search) -> Callable[[dict[str, Any]], None]:
    parameters = {trial.number: trial.parameters for trial in search.trials}

    def trial(config: dict[str, Any]) -> None:
        """One training, in a process of its own."""
        from ray import tune

        from dlenv_models import threads
        from dlenv_models.data import load

        threads.use(search.architecture, search.threads)
        options, arguments = split({**search.fixed, **parameters[config["number"]]})
        dataset = load(
            search.data,
            seed=options.get("seed", 0),
            data_dir=Path(search.data_dir) if search.data_dir else None,
            mirror=search.mirror,
            image_size=search.image_size,
        )
        training.train(
            search.architecture,
            dataset,
            replace(training.recipe(search.architecture, dataset), **options),
            arguments,
            on_epoch=lambda epoch: tune.report(epoch.figures),
        )

    return trial


def split(parameters: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the training, and arguments of the architecture."""
    options = asdict(Options()).keys()
    return (
        {key: value for key, value in parameters.items() if key in options},
        {key: value for key, value in parameters.items() if key not in options},
    )
