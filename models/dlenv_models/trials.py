"""The record of each trial of a search, kept by the process that searches, wherever the trial runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlenv.errors import DlenvError
from dlenv_models import runs
from dlenv_models.runs import Recorder, Run, Tracker
from dlenv_models.trackers import tracker

if TYPE_CHECKING:
    from dlenv_models.tuning import Search, Trial

__all__ = ["FIGURE", "recording", "trial_folder"]

FIGURE = "validation_loss"  # what counts: accuracies of small validation splits are the same for many trials
_FIGURES = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "rate")


def trial_folder(folder: Path, number: int) -> Path:
    """Where the record of a trial is."""
    return folder / f"trial-{number:03}"


def recording(
    search: Search,
    folder: Path,
    *,
    command: Callable[[Trial], str],
    on_end: Callable[[Trial, Run], None],
    track: Sequence[str],
    log: Callable[[str], None],
) -> Any:
    """A callback of Ray Tune that keeps the records; see :func:`dlenv_models.tuning.go_on`."""
    from ray.tune import Callback

    trials = {trial.number: trial for trial in search.trials}

    class Recording(Callback):  # type: ignore[misc]  # untyped in Ray
        """Keeps each trial's record."""

        def __init__(self) -> None:
            self._recorders: dict[int, Recorder] = {}

        def on_trial_start(self, **info: Any) -> None:
            """Begin the record; anew where the trial begins anew."""
            ours = trials[info["trial"].config["number"]]
            parameters = {**search.fixed, **ours.parameters}
            self._recorders[ours.number] = runs.record(
                trial_folder(folder, ours.number),
                name=f"trial-{ours.number:03}",
                command=command(ours),
                architecture=search.architecture,
                data=Path(search.data).name,  # of a folder, what a training says of it
                parameters=parameters,
                trackers=_trackers(track, folder, ours.number, parameters, log),
                log=log,
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
            epochs = runs.metrics(recorder.folder)
            patience = {**search.fixed, **ours.parameters}.get("patience", 0)
            if state == "finished" and len(epochs) < search.epochs and not _gave_up(epochs, patience):
                state = "stopped"
            if patience:
                more["result"] = _best(epochs)
            recorder.end(state, **more)
            on_end(ours, recorder.run)

    return Recording()


def _trackers(
    wanted: Sequence[str], folder: Path, number: int, parameters: Mapping[str, Any], log: Callable[[str], None]
) -> list[Tracker]:
    """A trial's; one that can't be had is told of, and does without."""
    found = []
    name = trial_folder(folder, number).name
    for each in wanted:
        try:
            found.append(tracker(each, folder / name, f"{folder.name}-{name}", folder.name, parameters))
        except DlenvError as error:
            log(f"{name} is not tracked: {error}")
    return found


def _gave_up(epochs: Sequence[Mapping[str, float]], patience: int) -> bool:
    """Whether the training ended by itself, after so many epochs that were no better."""
    best = min(range(len(epochs)), key=lambda number: epochs[number][FIGURE], default=0)
    return 0 < patience <= len(epochs) - 1 - best


def _best(epochs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The figures of the epoch whose weights a training with patience would keep."""
    best = min(epochs, key=lambda each: each[FIGURE], default={})
    return {key: best[key] for key in _FIGURES if key in best}


def _reason(trial: Any) -> str:
    """The last line of what Ray tells of a trial's error."""
    try:
        return Path(trial.error_file).read_text(encoding="utf-8").strip().splitlines()[-1]
    except (OSError, TypeError, IndexError):
        return "Ray gives no reason"
