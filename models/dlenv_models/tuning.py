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
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from dlenv.errors import DlenvError, UsageError
from dlenv_models import runs
from dlenv_models.architectures import complete
from dlenv_models.data import Dataset
from dlenv_models.options import Options, default_arguments
from dlenv_models.options import check as options_check
from dlenv_models.own_ray import ray_for
from dlenv_models.runs import Recorder, Run

__all__ = ["FIGURE", "Search", "Trial", "check", "go_on", "left", "trial_folder"]

SEARCH = "tune.json"
FIGURE = "validation_loss"  # what counts: accuracies of small validation splits are the same for many trials
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
        except (OSError, msgspec.MsgspecError) as error:
            raise UsageError(f"{folder} holds no search that can go on: {error}") from None


def check(architecture: str, dataset: Dataset, usual: Options, parameters: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` naming what of a trial's parameters can't be used, before anything is trained."""
    options, arguments = split(parameters)
    shape = {"input_shape": list(dataset.row_shape), "classes": len(dataset.classes)}
    try:
        complete(architecture, {**default_arguments(architecture, dataset), **arguments, **shape})
    except ValueError as error:
        raise UsageError(str(error)) from None
    options_check(architecture, replace(usual, **options), dataset)


def trial_folder(folder: Path, number: int) -> Path:
    """Where the record of a trial is."""
    return folder / f"trial-{number:03}"


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
) -> list[tuple[Trial, Run]]:
    """Run the trials that are left, ``jobs`` at once, and give every trial with its record, the best first.

    ``address``: an existing Ray cluster's, else one is started here and ended. ``command`` gives the command that
    trains a trial alone. An interruption (Ctrl-C) ends the trials that run, which a later call begins anew.

    Raises ``DlenvError`` where Ray can't be had.
    """
    wanted = left(search, folder)
    if wanted:
        _run(search, folder, wanted, jobs, address, command, on_end)
    found = [(trial, run) for trial in search.trials if (run := runs.read(trial_folder(folder, trial.number)))]
    return sorted(found, key=lambda pair: pair[1].result.get(FIGURE, float("inf")))


def _run(
    search: Search,
    folder: Path,
    wanted: Sequence[Trial],
    jobs: int,
    address: str | None,
    command: Callable[[Trial], str],
    on_end: Callable[[Trial, Run], None],
) -> None:
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its live table; ours says what ends
    with ray_for("search", cpus=jobs * search.threads, address=address):
        _fit(search, folder, wanted, jobs, command, on_end)


def _fit(
    search: Search,
    folder: Path,
    wanted: Sequence[Trial],
    jobs: int,
    command: Callable[[Trial], str],
    on_end: Callable[[Trial, Run], None],
) -> None:
    from ray import tune

    resources = {"cpu": search.threads, **({"gpu": 1} if search.gpu else {})}
    by_number = {trial.number: trial for trial in wanted}
    recording = _recording(search, folder, by_number, command, on_end)
    try:
        with tempfile.TemporaryDirectory(prefix="dlenv-tune-") as scratch:
            tuner = tune.Tuner(
                tune.with_resources(_trainable(search), resources),
                param_space={"number": tune.grid_search(list(by_number)), "parameters": None},
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

        from dlenv_models import threads, training
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


def _recording(
    search: Search,
    folder: Path,
    trials: Mapping[int, Trial],
    command: Callable[[Trial], str],
    on_end: Callable[[Trial, Run], None],
) -> Any:
    from ray.tune import Callback

    class Recording(Callback):  # type: ignore[misc]  # untyped in Ray
        """Keeps each trial's record, here, wherever it runs."""

        def __init__(self) -> None:
            self._recorders: dict[int, Recorder] = {}

        def on_trial_start(self, **info: Any) -> None:
            """Begin the record; anew where the trial begins anew."""
            ours = trials[info["trial"].config["number"]]
            self._recorders[ours.number] = runs.record(
                trial_folder(folder, ours.number),
                name=f"trial-{ours.number:03}",
                command=command(ours),
                architecture=search.architecture,
                data=search.data,
                parameters={**search.fixed, **ours.parameters},
            )

        def on_trial_result(self, **info: Any) -> None:
            """Add an epoch."""
            figures = {key: info["result"][key] for key in _FIGURES if key in info["result"]}
            self._recorders[info["trial"].config["number"]].epoch(figures)

        def on_trial_complete(self, **info: Any) -> None:
            """Say whether it came to its end, or was stopped on the way."""
            self._end(info["trial"], "finished")

        def on_trial_error(self, **info: Any) -> None:
            """Say why."""
            self._end(info["trial"], "failed", error=_reason(info["trial"]))

        def close(self) -> None:
            """Say of those that still run that they were cut off."""
            for recorder in self._recorders.values():
                recorder.end("interrupted")

        def _end(self, trial: Any, state: runs.State, **more: Any) -> None:
            ours = trials[trial.config["number"]]
            recorder = self._recorders[ours.number]
            if state == "finished" and recorder.run.epochs < search.epochs and not _is_patient(search, ours):
                state = "stopped"
            recorder.end(state, **more)
            on_end(ours, recorder.run)

    return Recording()


_FIGURES = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "rate")


def _is_patient(search: Search, trial: Trial) -> bool:
    """Whether the training may have ended by itself before its last epoch."""
    return bool({**search.fixed, **trial.parameters}.get("patience"))


def _reason(trial: Any) -> str:
    """The last line of what Ray tells of a trial's error."""
    try:
        return Path(trial.error_file).read_text(encoding="utf-8").strip().splitlines()[-1]
    except (OSError, TypeError, IndexError):
        return "Ray gives no reason"
