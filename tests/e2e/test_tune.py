"""``dlenv tune`` with a real Ray Tune: searched, stopped early, cut off, taken up again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

WORDS = ["tune", "mlp", "--data", "spiral", "--vary", "hidden=4|64", "--vary", "lr=log:0.0001..0.1"]


def command(folder: Path, *words: str) -> tuple[list[str], dict[str, str]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DLENV_REPOSITORY": str(folder / "repository")}
    return [sys.executable, "-m", "dlenv", *words], environment


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    line, environment = command(folder, *words)
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def states(folder: Path) -> list[str]:
    return [json.loads(path.read_text())["state"] for path in sorted(folder.glob("trial-*/run.json"))]


def off_loopback(parent: int) -> set[tuple[str, int]]:
    """Where a process and its children listen, but for loopback: Ray's agents would take jobs there."""
    family = psutil.Process(parent)
    found = set()
    for each in (family, *family.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            found |= {tuple(c.laddr) for c in each.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    return {(ip, port) for ip, port in found if ip.removeprefix("::ffff:") not in ("127.0.0.1", "::1")}


def rays() -> set[int]:
    return {each.pid for each in psutil.process_iter(["name"]) if each.info["name"] in ("raylet", "gcs_server")}


def test_the_best_is_found_and_the_hopeless_are_stopped(tmp_path: Path) -> None:
    before = rays()
    done = call(tmp_path, *WORDS, "--trials", "6", "--epochs", "9", "--grace", "1", "--jobs", "2", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    trials = report["trials"]
    assert len(trials) == 6
    losses = [trial["validation_loss"] for trial in trials]
    assert losses == sorted(losses)
    assert trials[0]["state"] == "finished"
    assert trials[0]["epochs"] == 9
    # Somebody was stopped, and nobody who was is better than all that were not.
    stopped = [trial for trial in trials if trial["state"] == "stopped"]
    assert stopped
    assert all(trial["epochs"] < 9 for trial in stopped)
    best = trials[0]["parameters"]
    assert report["best"].startswith("dlenv train mlp --data spiral --epochs 9 --hidden ")
    assert f"--lr {best['lr']}" in report["best"]
    # A trial alone gives the same, epoch by epoch, as it did among the others.
    words = report["best"].split()[1:]
    again = call(tmp_path, *words, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["validation_accuracy"] == trials[0]["validation_accuracy"]
    listed = call(tmp_path, "runs", "list", report["folder"], "--sort", "validation_loss", "--json")
    assert [run["result"]["validation_loss"] for run in json.loads(listed.stdout)] == losses
    assert not rays() - before
    twice = call(tmp_path, *WORDS)
    assert twice.returncode == 2
    assert "holds a search already" in twice.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_what_was_cut_off_goes_on(tmp_path: Path, how: signal.Signals) -> None:
    before = rays()
    line, environment = command(
        tmp_path, *WORDS, "--trials", "4", "--epochs", "40", "--jobs", "1", "--scheduler", "none"
    )
    folder = tmp_path / "runs/tune-spiral-mlp"
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            line, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        ) as running,
    ):
        until = time.monotonic() + 120
        while "finished" not in states(folder) and time.monotonic() < until and running.poll() is None:
            time.sleep(0.05)
        assert rays() - before
        assert not off_loopback(running.pid)
        os.killpg(running.pid, how) if how == signal.SIGINT else running.kill()
        code = running.wait(60)
    said = (tmp_path / "log").read_text()
    assert code == (130 if how == signal.SIGINT else -9), said
    if how == signal.SIGINT:
        assert f"dlenv tune --resume {folder.relative_to(tmp_path)}" in said
    finished = [
        path.parent for path in folder.glob("trial-*/run.json") if json.loads(path.read_text())["state"] == "finished"
    ]
    assert 1 <= len(finished) < 4
    kept = {path: (path / "run.json").read_bytes() for path in finished}
    while rays() - before and time.monotonic() < until + 60:
        time.sleep(0.2)
    assert not rays() - before  # nothing of Ray is left
    again = call(tmp_path, "tune", "--resume", str(folder), "--json")
    assert again.returncode == 0, again.stderr
    assert states(folder) == ["finished"] * 4
    assert kept == {path: (path / "run.json").read_bytes() for path in finished}
    assert len(json.loads(again.stdout)["trials"]) == 4


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--vary", "learning=1|2"], "vary: 'learning=1|2' is not OPTION=VALUES"),
        (["--vary", "lr=0.1"], "vary: lr: '0.1' is a single value"),
        (["--vary", "lr=5..5000"], "lr: "),
        (["--vary", "hidden=8|x"], "hidden: 'x' is not whole numbers"),
        (["--vary", "lr=0.1|0.2", "--lr", "0.1"], "vary: lr is set as well"),
        (["--vary", "channels=6,16|3,4"], "channels"),
    ],
)
def test_what_can_not_be_tried_is_named_before_anything_starts(tmp_path: Path, words: list[str], text: str) -> None:
    done = call(tmp_path, "tune", "mlp", "--data", "spiral", *words)
    assert done.returncode == 2
    assert text in done.stderr
    assert not (tmp_path / "runs").exists()
