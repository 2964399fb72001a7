"""``dlenv train --workers`` with a real Ray Train: the same result as one process, and one that dies costs nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dlenv_models.repository import Repository

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

# Augmentation draws for the whole batch, whoever has which rows; the last has an odd number of rows.
WORDS = ["train", "mlp", "--data", "digits", "--batch-size", "200", "--augment", "--hidden", "32", "--clip", "1"]


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words), cwd=folder, env=environment(folder), capture_output=True, text=True, check=False
    )


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "dlenv", *words]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "DLENV_REPOSITORY": str(folder / "repository")}


def weights(folder: Path, name: str) -> dict[str, list[float]]:
    module = Repository(folder / "repository", shipped=None).load(name).module
    return {key: value.flatten().tolist() for key, value in module.state_dict().items()}


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["validation_loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def workers(parent: int) -> list[psutil.Process]:
    """The processes that train; Ray names each after what it does."""
    found = []
    for each in psutil.Process(parent).children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(each.cmdline()):
                found.append(each)
        except psutil.Error:
            continue
    return found


def test_as_in_one_process_though_one_of_two_is_killed(tmp_path: Path) -> None:
    words = [*WORDS, "--epochs", "60"]
    alone = call(tmp_path, *words, "--name", "alone")
    assert alone.returncode == 0, alone.stderr
    line = command(*words, "--workers", "2", "--name", "together")
    log = tmp_path / "log"
    killed = 0
    with (
        log.open("w") as out,
        subprocess.Popen(line, cwd=tmp_path, env=environment(tmp_path), stdout=out, stderr=out) as running,
    ):
        until = time.monotonic() + 200
        while running.poll() is None and time.monotonic() < until:
            metrics = next((tmp_path / "runs").glob("together-*/metrics.jsonl"), None)
            if not killed and metrics and metrics.read_bytes().count(b"\n") >= 30 and (found := workers(running.pid)):
                found[-1].kill()
                killed = len(found)
            time.sleep(0.02)
        if running.poll() is None:
            running.kill()
    assert running.returncode == 0, log.read_text()
    assert killed == 2
    one, two = weights(tmp_path, "alone"), weights(tmp_path, "together")
    assert one.keys() == two.keys()
    for key, values in one.items():
        assert two[key] == pytest.approx(values, abs=2e-3), key
    speed = json.loads((tmp_path / "runs/together-v1/run.json").read_text())["result"]
    assert speed["rows_per_second_per_worker"] == pytest.approx(speed["rows_per_second"] / 2)
    assert " by each of 2 workers" in log.read_text()
    # Each epoch once, though some were trained twice.
    assert losses(tmp_path / "runs/together-v1") == pytest.approx(losses(tmp_path / "runs/alone-v1"), abs=1e-3)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--workers", "300"], "workers: 300 is not between 2 and the batch size, 200"),
        (["--storage", "/nowhere"], "storage: it belongs to --workers"),
        (["--workers", "2", "--folds", "3"], "workers: folds can't be shared out"),
    ],
)
def test_what_can_not_be_shared_out_is_said(tmp_path: Path, words: list[str], text: str) -> None:
    done = call(tmp_path, *WORDS, *words)
    assert done.returncode == 2
    assert text in done.stderr
