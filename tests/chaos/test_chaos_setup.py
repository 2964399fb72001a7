"""`dlenv setup` killed at any moment: the environment that was there works, and the next run finishes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlenv.environment.layout import Home
from dlenv.environment.record import Record

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(os.name != "posix", reason="kills a group of processes"),
    pytest.mark.timeout(7200),
]

KILLS = int(os.environ.get("TEST_CHAOS_KILLS", "50"))
WORDS = ("--course", "none", "--mirror", "none", "--yes")


def begin(env: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "dlenv", "setup", "--env", str(env), *WORDS, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=env.parent,
        start_new_session=True,
    )


def works(env: Path) -> bool:
    code = "import torch; raise SystemExit(0 if torch.ones(2).sum().item() == 2 else 1)"
    return subprocess.run([env / "bin" / "python", "-c", code], timeout=120).returncode == 0


def test_killed_at_random_moments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = tmp_path / "env"
    began = time.monotonic()
    assert begin(env).wait(600) == 0
    first = time.monotonic() - began
    began = time.monotonic()
    assert begin(env, "--repair").wait(600) == 0
    takes = time.monotonic() - began
    moments = random.Random(11)
    finished = 0
    for _ in range(KILLS):
        before = env.readlink(), Record.path(env).read_text()
        process = begin(env, "--repair")
        time.sleep(moments.uniform(0, takes))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        after = env.readlink(), Record.path(env).read_text()
        finished += after != before  # it was done already
        assert works(env)
        record = Record.read(env)
        assert record is not None
        assert record.changed(env) == []
    # What was killed leaves unfinished builds, which the next run takes away.
    began = time.monotonic()
    assert begin(env, "--repair").wait(600) == 0
    assert Home(env).unfinished() == []
    assert works(env)
    with capsys.disabled():
        print(
            f"\nsetup: {KILLS} kills, {finished} of them after the switch; the environment worked each time. "
            f"First build {first:.0f} s, again {takes:.0f} s, after the last kill {time.monotonic() - began:.0f} s"
        )
