"""`dlenv setup` killed at any moment: the environment that was there works, and the next run finishes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

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


def begin(env: Path, *words: str, said: IO[str] | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "dlenv", "setup", "--env", str(env), *WORDS, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=said or subprocess.DEVNULL,
        cwd=env.parent,
        start_new_session=True,
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for two environments; what is not written in its file takes no room."""
    image, place = tmp_path / "disk.img", tmp_path / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(20 * 2**30)
    for words in (("mkfs.ext4", "-q", image), ("mount", "-o", "loop", image, place)):
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"{words[0]}, which takes root, fails here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)
        image.unlink()


def fill(place: Path, leave: int) -> Path:
    """Take all room of the file system but ``leave`` bytes."""
    filler = place / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(place).free - leave)
    return filler


def used(place: Path) -> int:
    return shutil.disk_usage(place).used


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


def test_the_disk_gets_full_during_a_build(disk: Path) -> None:
    env = disk / "env"
    log = disk / "log"
    empty = used(disk)
    assert begin(env).wait(600) == 0
    size = used(disk) - empty
    before = env.readlink(), Record.path(env).read_text()
    with log.open("w") as said:
        process = begin(env, "--repair", said=said)
        while used(disk) - empty < size * 1.2:  # it is copying packages
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        filler = fill(disk, leave=2**20)
        assert process.wait(600) == 1
    assert "No space left on device" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert (env.readlink(), Record.path(env).read_text()) == before
    assert Home(env).unfinished() == []
    assert works(env)
    filler.unlink()
    assert begin(env, "--repair").wait(600) == 0
    assert works(env)
