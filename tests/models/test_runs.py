"""Records of runs: whole, readable, and never the reason why a training fails."""

from __future__ import annotations

import json
import os
import platform
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from dlenv.errors import DlenvError, UsageError
from dlenv_models import runs
from dlenv_models.trackers import tracker

FIGURES = {"train_loss": 0.5, "validation_accuracy": 0.9}


def begin(folder: Path, **more: Any) -> runs.Recorder:
    what = {"name": "one", "command": "dlenv train mlp", "architecture": "mlp", "data": "spiral"}
    return runs.record(folder, **{**what, "parameters": {"lr": 0.1, "hidden": [8, 4]}, **more})


def test_a_run_from_begin_to_end(tmp_path: Path) -> None:
    recorder = begin(tmp_path / "r")
    assert runs.read(tmp_path / "r") == recorder.run
    assert recorder.run.state == "running"
    recorder.epoch(FIGURES)
    assert runs.metrics(tmp_path / "r") == [{"epoch": 1, **FIGURES}]
    recorder.epoch({"train_loss": 0.25, "validation_accuracy": 0.95})
    recorder.end("finished", result={"test_accuracy": 0.94}, model="one/1")
    run = runs.read(tmp_path / "r")
    assert run is not None
    assert (run.state, run.epochs, run.model) == ("finished", 2, "one/1")
    assert run.result == {"train_loss": 0.25, "validation_accuracy": 0.95, "test_accuracy": 0.94}
    assert run.parameters == {"lr": 0.1, "hidden": [8, 4]}
    assert run.environment["torch"]
    assert run.ended is not None
    assert run.started <= run.ended


@pytest.mark.parametrize(("error", "state"), [(ValueError("no"), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_what_goes_wrong_is_recorded(tmp_path: Path, error: BaseException, state: str) -> None:
    def fail() -> None:
        with runs.ended(begin(tmp_path / "r")) as recorder:
            recorder.epoch(FIGURES)
            raise error

    with pytest.raises(type(error)):
        fail()
    run = runs.read(tmp_path / "r")
    assert run is not None
    assert (run.state, run.epochs) == (state, 1)
    assert run.error == ("ValueError: no" if state == "failed" else "KeyboardInterrupt")


def test_of_a_killed_run_all_whole_lines_are_left(tmp_path: Path) -> None:
    recorder = begin(tmp_path / "r")
    recorder.epoch(FIGURES)
    with (tmp_path / "r" / runs.METRICS).open("ab") as file:
        file.write(b'{"epoch": 2, "train_lo')
    assert [line["epoch"] for line in runs.metrics(tmp_path / "r")] == [1]
    run = runs.read(tmp_path / "r")
    assert run is not None
    assert (run.state, run.epochs, run.result) == ("running", 1, FIGURES)
    with subprocess.Popen(["sleep", "9"]) as other:
        line = f"{platform.node()} {other.pid} {psutil.Process(other.pid).create_time():.0f}"
        process_of(tmp_path / "r", line)
        assert runs.read(tmp_path / "r") == msgspec.structs.replace(run, process=line)
        other.kill()
    for gone in (line, f"{platform.node()} {os.getpid()} 12"):  # and another that has its number now
        process_of(tmp_path / "r", gone)
        killed = runs.read(tmp_path / "r")
        assert killed is not None
        assert (killed.state, killed.error, killed.epochs) == ("interrupted", "its process was killed", 1)
    process_of(tmp_path / "r", "elsewhere 1 12")
    assert runs.read(tmp_path / "r") == msgspec.structs.replace(run, process="elsewhere 1 12")
    process_of(tmp_path / "r", None)  # by an earlier dlenv
    assert runs.read(tmp_path / "r") == msgspec.structs.replace(run, process=None)


def process_of(folder: Path, line: str | None) -> None:
    record = json.loads((folder / runs.RECORD).read_text())
    (folder / runs.RECORD).write_text(json.dumps({**record, "process": line}))


def test_others_are_found_by_time_and_what_is_none_is_left_out(tmp_path: Path) -> None:
    for name in ("b", "deep/a"):
        begin(tmp_path / name).end("finished")
    (tmp_path / "c").mkdir()
    (tmp_path / "c/run.json").write_text("{")
    (tmp_path / "d").mkdir()
    newer = json.loads((tmp_path / "b/run.json").read_text()) | {"schema": 2}
    (tmp_path / "d/run.json").write_text(json.dumps(newer))
    assert runs.find(tmp_path) == [tmp_path / "b", tmp_path / "deep/a"]
    assert runs.find(tmp_path / "nowhere") == []


def test_the_state_of_the_repository(tmp_path: Path) -> None:
    assert runs.git(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.invalid"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    clean = runs.git(tmp_path)
    assert clean is not None
    assert len(clean.commit) == 40
    assert not clean.changed
    begin(tmp_path / "runs" / "one")
    assert runs.git(tmp_path, tmp_path / "runs") == clean  # what dlenv records is no change of the user's
    (tmp_path / "new").touch()
    assert runs.git(tmp_path, tmp_path / "runs") == runs.Git(commit=clean.commit, changed=True)


def test_a_place_is_not_taken_twice(tmp_path: Path) -> None:
    assert runs.free(tmp_path / "r") == tmp_path / "r"
    recorder = begin(tmp_path / "r")
    assert runs.free(tmp_path / "r") == tmp_path / "r-2"
    recorder.end("finished")
    (tmp_path / "to").mkdir()
    (tmp_path / "to/curves.png").touch()
    recorder.move(tmp_path / "to")
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["curves.png", "metrics.jsonl", "run.json"]
    assert not (tmp_path / "r").exists()


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DlenvError, match="choose another folder"):
        begin(tmp_path / "file" / "r")


def scalars(folder: Path) -> Iterator[bytes]:
    """The records in TensorBoard's files: length, checksum, data, checksum (TFRecord)."""
    for path in folder.glob("events.out.tfevents.*"):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield data[12 : 12 + length]
            data = data[16 + length :]


def test_tensorboard(tmp_path: Path) -> None:
    watcher = tracker("tensorboard", tmp_path / "r", "one", "mlp", {"lr": 0.1})
    recorder = begin(tmp_path / "r", trackers=[watcher])
    recorder.epoch(FIGURES)
    recorder.end("finished", result={"test_accuracy": 0.9})
    told = b"".join(scalars(tmp_path / "r"))
    for word in (b"train_loss", b"validation_accuracy", b"test_accuracy", b"parameters"):
        assert word in told


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "ml").as_uri()
    for state in ("finished", "interrupted"):
        watcher = tracker(f"mlflow:{uri}", tmp_path, "one", "digits", {"lr": 0.1})
        recorder = begin(tmp_path / state, trackers=[watcher])
        recorder.epoch(FIGURES)
        recorder.epoch({"train_loss": 0.25})
        recorder.end(state, result={"test_accuracy": 0.9})
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("digits")
    last, first = client.search_runs([experiment.experiment_id])
    assert (first.info.status, last.info.status) == ("FINISHED", "KILLED")
    assert first.data.params == {"lr": "0.1"}
    assert first.data.metrics == {"train_loss": 0.25, "validation_accuracy": 0.9, "test_accuracy": 0.9}
    assert [point.step for point in client.get_metric_history(first.info.run_id, "train_loss")] == [1, 2]
    assert first.data.tags["dlenv.command"] == "dlenv train mlp"


def test_a_server_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(DlenvError, match=r"MLflow at http://127\.0\.0\.1:9 takes no run"):
        tracker("mlflow:http://127.0.0.1:9", tmp_path, "one", "digits", {})


def test_a_server_that_goes_away_costs_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    watcher = tracker(f"mlflow:{(tmp_path / 'ml').as_uri()}", tmp_path, "one", "digits", {})
    said: list[str] = []
    recorder = begin(tmp_path / "r", trackers=[watcher], log=said.append)
    for path in (tmp_path / "ml").rglob("meta.yaml"):
        path.unlink()
    recorder.epoch(FIGURES)
    recorder.epoch(FIGURES)
    recorder.end("finished")
    assert len(said) == 1
    assert said[0].startswith("MLflow is told no more of this run: ")
    assert len(runs.metrics(tmp_path / "r")) == 2


def test_another_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"track: 'tensorbord' is not one of .*did you mean 'tensorboard'"):
        tracker("tensorbord", tmp_path, "one", "mlp", {})
