"""``dlenv tune`` before Ray starts: what is refused, and which command a trial is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from dlenv.commands import tune
from dlenv.errors import DlenvError, UsageError
from dlenv_models import own_ray, trackers, trials, tuning
from dlenv_models.tuning import Search, Trial


def search(folder: Path, **changes: Any) -> Search:
    values: dict[str, Any] = {
        "command": "dlenv tune linear --data spiral",
        "architecture": "linear",
        "data": "spiral",
        "data_dir": None,
        "mirror": None,
        "image_size": 32,
        "fixed": {"patience": 2},
        "vary": {"lr": "0.1|0.2"},
        "scheduler": "asha",
        "epochs": 9,
        "grace": 1,
        "threads": 1,
        "gpu": False,
        "trials": (Trial(number=1, parameters={"lr": 0.1}), Trial(number=2, parameters={"lr": 0.2})),
    }
    made = Search(**{**values, **changes})
    made.write(folder)
    return made


def call(*words: object) -> None:
    tune.command.main([str(word) for word in words], standalone_mode=False)


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray is started")

    monkeypatch.setattr(tuning, "ray_for", never)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--trials", 3], "--trials"),
        (["--lr", 0.5], "--lr"),
        (["--no-augment"], "--augment"),
        (["--epochs", 3], "--epochs"),
        (["--output", "there"], "--output"),
        (["--vary", "lr=1|2"], "--vary"),
        (["--data", "spiral"], "--data"),
        (["mlp"], "ARCHITECTURE"),
    ],
)
def test_a_search_that_goes_on_can_not_be_another(tmp_path: Path, words: list[object], named: str) -> None:
    search(tmp_path)
    with pytest.raises(UsageError, match=f"resume: the folder says what is searched; leave out \\[?{named}"):
        call("--resume", tmp_path, *words)


def test_where_no_search_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no search that can go on: No such file or directory$"):
        call("--resume", tmp_path)


def test_two_do_not_work_in_one_folder(tmp_path: Path) -> None:
    search(tmp_path)
    with FileLock(tmp_path / ".lock"), pytest.raises(UsageError, match="another dlenv tune is at work in"):
        call("--resume", tmp_path, "--jobs", 1)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--epochs", 5, "--grace", 5], "grace: no trial could be stopped in 5 epochs after 5; take fewer"),
        (["--device", "cuda:1"], "device: each trial gets a GPU of its own; 'cuda:1' is not cpu, cuda or mps"),
        (["--device", "cuda"], "device: 'cuda' is not there; use cpu"),
        (["--vary", "lr=0.1|0.2", "--vary", "lr=1|2"], "vary: lr, lr: name each option once"),
        (["--batch-norm", "--vary", "batch-size=1|2"], "batch_size: 1 is too small for mlp, whose batch normalisation"),
        (["--track", "tensorbord"], "track: 'tensorbord' is not one of tensorboard, mlflow; did you mean"),
    ],
)
def test_what_can_not_be_searched_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[object], reason: str
) -> None:
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=reason):
        call("mlp", "--data", "spiral", *words)
    assert not list(tmp_path.iterdir())


def test_the_best_trial_s_command_has_all_that_it_depends_on(tmp_path: Path) -> None:
    found = search(tmp_path, data="/pictures of/cats", image_size=20, data_dir="/cache", mirror="http://m", fixed={})
    line = tune._command_line(found, found.trials[0])
    assert line == (
        "dlenv train linear --data '/pictures of/cats' --image-size 20 --data-dir /cache --mirror http://m --lr 0.1"
    )


def test_trials_at_once_fit_to_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlenv.machine import system

    monkeypatch.setattr(system, "cpus", lambda _: 6)
    monkeypatch.setattr(own_ray, "fitting", lambda: 4)
    assert tune._jobs(search(tmp_path)) == 4  # the memory is what there is least of
    assert tune._jobs(search(tmp_path, threads=2)) == 3
    assert tune._jobs(search(tmp_path, threads=9)) == 1


def test_a_cluster_s_room_is_looked_at_by_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search(tmp_path, fixed={"device": "cuda"}, gpu=True)
    asked: list[int] = []

    def note(_search: Search, _folder: Path, _wanted: Any, jobs: int, *_: Any) -> None:
        asked.append(jobs)
        raise DlenvError("enough")

    monkeypatch.setattr(tuning, "_run", note)
    for words in (["--address", "head:6379"], ["--jobs", 5], []):
        with pytest.raises(DlenvError, match="enough"):
            call("--resume", tmp_path, *words)
    assert asked == [2, 2, 1]  # both trials; no more than there are; this machine's GPUs, or one


def test_all_trials_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = search(tmp_path)

    def fail(*_: Any, **__: Any) -> None:
        for trial in found.trials:
            folder = trials.trial_folder(tmp_path, trial.number)
            tuning.runs.record(folder, name="", command="", architecture="", data="", parameters={}).end(
                "failed", error="DataError: the loss stopped being a number in epoch 1"
            )

    monkeypatch.setattr(tuning, "_run", fail)
    with pytest.raises(DlenvError, match="no trial came to a result; the first failed: DataError: the loss stopped"):
        call("--resume", tmp_path)


class FakeTrial:
    def __init__(self, number: int) -> None:
        self.config = {"number": number}


def test_trials_are_tracked_and_counted_by_what_they_would_keep(tmp_path: Path) -> None:
    """With patience the best epoch's weights are what a training keeps."""
    found = search(tmp_path)
    said: list[str] = []
    record = trials.recording(
        found, tmp_path, command=lambda _: "", on_end=lambda *_: None, track=["tensorboard"], log=said.append
    )
    record.on_trial_start(trial=FakeTrial(1))
    record.on_trial_start(trial=FakeTrial(2))
    for number, losses in {1: (0.5, 0.2, 0.4, 0.3), 2: (0.5, 0.2, 0.4)}.items():
        for loss in losses:
            record.on_trial_result(trial=FakeTrial(number), result={"validation_loss": loss, "train_loss": loss / 2})
        record.on_trial_complete(trial=FakeTrial(number))
    for number, epochs, state in ((1, 4, "finished"), (2, 3, "stopped")):  # of a patience of 2, the second had 1 left
        run = json.loads((tmp_path / f"trial-00{number}/run.json").read_text())
        assert (run["state"], run["epochs"]) == (state, epochs)
        assert run["result"] == {"train_loss": 0.1, "validation_loss": 0.2}
    assert list((tmp_path / "trial-001").glob("events.out.tfevents.*"))
    assert not said


def test_a_trial_whose_tracker_can_not_be_had_does_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> Any:
        raise DlenvError("MLflow at http://x takes no run: gone")

    monkeypatch.setattr(trials, "tracker", gone)
    said: list[str] = []
    assert trials._trackers(["mlflow:http://x"], tmp_path, 1, {}, said.append) == []
    assert said == ["trial-001 is not tracked: MLflow at http://x takes no run: gone"]


def test_a_tracker_is_tried_before_anything_starts() -> None:
    trackers.check("tensorboard", "any")
    with pytest.raises(UsageError, match="track: 'mlfow' is not one of tensorboard, mlflow; did you mean 'mlflow'"):
        trackers.check("mlfow", "any")
