"""What a search that goes on remembers: Ray's own scheduler, told from the records, without a cluster."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dlenv_models import runs, tuning
from dlenv_models.tuning import FIGURE, Search, Trial, trial_folder

pytest.importorskip("ray.tune")

EPOCHS = 9
# Losses of the trials with a record; ASHA (grace 1, a third goes on) compares them after 1, 3 and 9 epochs.
RECORDED = {1: [0.5, 0.4, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.2], 2: [0.9], 3: [0.8], 4: [0.7, 0.6, 0.6]}


def search(**changes: Any) -> Search:
    values: dict[str, Any] = {
        "command": "dlenv tune mlp --data spiral",
        "architecture": "mlp",
        "data": "spiral",
        "data_dir": None,
        "mirror": None,
        "image_size": 32,
        "fixed": {},
        "vary": {"lr": "0.1..0.2"},
        "scheduler": "asha",
        "epochs": EPOCHS,
        "grace": 1,
        "threads": 1,
        "gpu": False,
        "trials": tuple(Trial(number=number, parameters={"lr": 0.1}) for number in range(1, 8)),
    }
    return Search(**{**values, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, losses in RECORDED.items():
        record(tmp_path, number, losses, "finished" if len(losses) == EPOCHS else "stopped")
    record(tmp_path, 5, [0.001], "interrupted")  # it begins anew, so it counts for nothing yet
    return tmp_path


def record(root: Path, number: int, losses: list[float], state: runs.State) -> None:
    recorder = runs.record(
        trial_folder(root, number),
        name=f"trial-{number:03}",
        command="",
        architecture="mlp",
        data="spiral",
        parameters={},
    )
    for loss in losses:
        recorder.epoch({FIGURE: loss})
    recorder.end(state)


def decisions(scheduler: Any, losses: list[float]) -> list[str]:
    """What the scheduler says of a new trial, epoch by epoch, until it stops it."""
    trial = SimpleNamespace(trial_id="new")
    scheduler.on_trial_add(None, trial)
    said: list[str] = []
    for number, loss in enumerate(losses, 1):
        said.append(scheduler.on_trial_result(None, trial, {"training_iteration": number, FIGURE: loss}))
        if said[-1] == "STOP":
            break
    return said


def test_what_earlier_trials_reported_counts(folder: Path) -> None:
    # Of 0.5, 0.9, 0.8, 0.7 after one epoch, the best third is what lies below 0.7.
    assert decisions(tuning._scheduler(search(), folder), [0.85]) == ["STOP"]
    assert decisions(tuning._scheduler(search(), folder), [0.6, 0.6, 0.59]) == ["CONTINUE", "CONTINUE", "STOP"]
    assert decisions(tuning._scheduler(search(), folder), [0.45, 0.4, 0.35]) == ["CONTINUE"] * 3


def test_a_new_search_remembers_nothing(tmp_path: Path) -> None:
    assert decisions(tuning._scheduler(search(), tmp_path), [0.85, 0.85, 0.85]) == ["CONTINUE"] * 3


def test_the_scheduler_stands_where_one_stands_that_was_never_stopped(folder: Path) -> None:
    """The same trials, reported to a scheduler as they ran."""
    from ray.tune.schedulers import ASHAScheduler

    through = ASHAScheduler(
        time_attr="training_iteration", metric=FIGURE, mode="min", max_t=EPOCHS, grace_period=1, reduction_factor=3
    )
    for number, losses in RECORDED.items():
        trial = SimpleNamespace(trial_id=str(number))
        through.on_trial_add(None, trial)
        for epoch, loss in enumerate(losses, 1):
            through.on_trial_result(None, trial, {"training_iteration": epoch, FIGURE: loss})
        through.on_trial_complete(None, trial, {"training_iteration": len(losses), FIGURE: losses[-1]})
    assert (
        tuning._scheduler(search(), folder).debug_string().splitlines()[1:] == through.debug_string().splitlines()[1:]
    )


@pytest.mark.parametrize("changes", [{"scheduler": "none"}, {"grace": EPOCHS}])
def test_without_asha_all_go_to_their_end(folder: Path, changes: dict[str, Any]) -> None:
    assert decisions(tuning._scheduler(search(**changes), folder), [9.0] * 4) == ["CONTINUE"] * 4
