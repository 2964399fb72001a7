"""A model that raises, hangs or runs out of memory, and disks that are full or can't be written, under load."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from chaos_load import CLIENTS, GOOD, LOST, REFUSED, TOLD, WRONG, Figure, Question, questions, steady
from serving import Running, publish, run_service

from dlenv.errors import RepositoryError
from dlenv_models.repository import Repository
from dlenv_service import halving
from dlenv_service.batcher import Answer, Array
from dlenv_service.config import Settings
from dlenv_service.device import Runner, Timing

MODEL = "points"
INFER = f"/v2/models/{MODEL}/infer"
BATCH = 64
Figures = list[Figure]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    publish(folder, MODEL, "mlp", input_shape=[2], classes=3, hidden=[8])
    return folder


def serving(root: Path, **more: object) -> contextlib.AbstractContextManager[Running]:
    given = {"repository": root, "models": (MODEL,), "device": "cpu", "max_batch": BATCH, **more}
    return run_service(Settings(**given))  # type: ignore[arg-type]


class Faulty:
    """A model's own runner, with a fault in it that can be switched on."""

    def __init__(self, runner: Runner) -> None:
        self.name = runner.name
        self.runner = runner
        self.fault: Callable[[int], None] | None = None
        self.sizes: list[int] = []

    def run(self, pieces: list[Array], count: int) -> tuple[Answer, Timing]:
        if self.fault is not None:
            self.fault(count)
        self.sizes.append(count)
        return self.runner.run(pieces, count)


@contextlib.contextmanager
def faulty(running: Running) -> Iterator[Faulty]:
    """Put a fault's place into the model that is served, the way in which an engine is replaced by a faster one."""
    served = running.service.host.find(MODEL)
    runner = Faulty(served.lane.runner)
    served.device.call(lambda: served.lane.replace(runner, BATCH)).result(10)
    yield runner


@pytest.fixture
def asked(root: Path) -> list[Question]:
    return questions(Repository(root), MODEL)


def port_of(running: Running) -> int:
    return int(running.url.rpartition(":")[2])


def test_a_model_that_raises_now_and_then_fails_these_batches_alone(
    root: Path, asked: list[Question], figures: Figures
) -> None:
    failed: list[int] = []
    turn = itertools.count(1)

    def raises(count: int) -> None:
        if next(turn) % 5 == 0:
            failed.append(count)
            raise RuntimeError("a secret of the model")

    with serving(root) as running, faulty(running) as runner, steady(port_of(running), INFER, asked) as load:
        began = time.monotonic()
        runner.fault = raises
        time.sleep(2)
        runner.fault = None
        time.sleep(0.5)
        ready = running.client.get("/v2/health/ready").status_code
    figure = load.report.figure("the model raises in some batches", began, sum(failed))
    figures.append(figure)
    assert figure.wrong == 0
    assert 0 < figure.lost <= sum(failed)  # 500 for what was in these batches, and for nothing else
    assert set(load.report.details(LOST)) == {"500"}
    assert ready == 200


def test_a_model_that_always_raises_is_unhealthy_and_well_again_with_its_next_good_batch(root: Path) -> None:
    body = {"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}

    def raises(count: int) -> None:
        raise RuntimeError("a secret of the model")

    with serving(root) as running, faulty(running) as runner:
        runner.fault = raises
        answers = [running.client.post(INFER, json=body) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [500] * 4
        assert "secret" not in answers[0].text
        assert running.client.get("/v2/health/ready").status_code == 503
        runner.fault = None
        assert running.client.post(INFER, json=body).status_code == 200
        assert running.client.get("/v2/health/ready").status_code == 200


def test_a_model_that_hangs_leaves_nobody_waiting(root: Path, asked: list[Question], figures: Figures) -> None:
    """Each gets 504 at its deadline. Whether the process is replaced is Serve's business: see test_chaos_ray.py."""
    release = threading.Event()

    def hangs(count: int) -> None:
        release.wait(60)

    with (
        serving(root, deadline_ms=500) as running,
        faulty(running) as runner,
        steady(port_of(running), INFER, asked) as load,
    ):
        began = time.monotonic()
        runner.fault = hangs
        time.sleep(2.5)
        late = load.report.details(LOST)
        runner.fault = None
        release.set()
        time.sleep(1.5)
    figure = load.report.figure("the model hangs for 2.5 s (deadline 0.5 s)", began, CLIENTS * 6)
    figures.append(figure)
    assert set(late) == {"504"}
    assert figure.wrong == 0
    assert CLIENTS <= figure.lost <= CLIENTS * 6
    assert figure.back_s < 4


@pytest.mark.parametrize("engine", ["made to fail", pytest.param("host memory", marks=pytest.mark.chaos)])
def test_a_model_out_of_memory_is_run_in_smaller_batches_and_recovers(
    root: Path, asked: list[Question], figures: Figures, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setattr(halving, "PATIENCE_S", 0.5)
    short = torch.OutOfMemoryError("CUDA out of memory")

    def out_of_memory(count: int) -> None:
        if count > 2:
            if engine == "host memory":
                torch.empty(2**60, dtype=torch.uint8)  # what there is not
            raise short

    rows = np.random.default_rng(3).uniform(-1, 1, (BATCH, 2)).astype(np.float32)
    raw = {"Inference-Header-Content-Length": "0"}
    with serving(root) as running, faulty(running) as runner, steady(port_of(running), INFER, asked) as load:
        before = running.client.post(INFER, content=rows.tobytes(), headers=raw)
        began = time.monotonic()
        runner.fault = out_of_memory
        short_of = running.client.post(INFER, content=rows.tobytes(), headers=raw)
        time.sleep(1.5)
        mark = len(runner.sizes)
        runner.fault = None
        time.sleep(4)
        running.client.post(INFER, content=rows.tobytes(), headers=raw)
    figure = load.report.figure(f"no memory for more than 2 rows ({engine})", began, 0)
    figures.append(figure)
    assert (figure.wrong, figure.lost, figure.told) == (0, 0, 0)
    assert before.status_code == short_of.status_code == 200
    at = int(before.headers["inference-header-content-length"])
    np.testing.assert_allclose(
        np.frombuffer(short_of.content[at:][: BATCH * 12], "<f4"),
        np.frombuffer(before.content[at:][: BATCH * 12], "<f4"),
        rtol=0,
        atol=1e-6,
    )
    assert max(runner.sizes[:mark][-20:]) <= 2
    assert max(runner.sizes[mark:]) == BATCH


# Disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small file system takes root: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path) -> None:
    """Take all that is left."""
    with (place / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


linux = pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")


@linux
def test_a_full_disk_stops_a_publication_and_nothing_else(
    small_disk: Path, asked: list[Question], figures: Figures
) -> None:
    root = small_disk / "models"
    publish(root, MODEL, "mlp", input_shape=[2], classes=3, hidden=[8])
    wanted = questions(Repository(root), MODEL)
    with serving(root) as running, steady(port_of(running), INFER, wanted) as load:
        began = time.monotonic()
        fill(small_disk)
        before = sorted(path.relative_to(root) for path in root.rglob("*"))
        for _ in range(3):
            with pytest.raises(RepositoryError, match="can't be written") as caught:
                publish(root, MODEL, "mlp", input_shape=[2], classes=3, hidden=[2000])
            assert os.strerror(errno.ENOSPC) in str(caught.value)
        assert sorted(path.relative_to(root) for path in root.rglob("*")) == before  # nothing half-written
        assert running.client.post(f"/v2/repository/models/{MODEL}/load").status_code == 200  # which only reads
        (small_disk / "filler").unlink()
        publish(root, MODEL, "mlp", input_shape=[2], classes=3, hidden=[8])
        assert running.client.get("/v2/health/ready").status_code == 200
    figure = load.report.figure("disk full while a model is published and loaded", began, 0)
    figures.append(figure)
    assert (figure.wrong, figure.lost, figure.told, figure.refused) == (0, 0, 0, 0)


@linux
def test_a_file_that_may_not_grow_stops_a_publication_too(root: Path, tmp_path: Path) -> None:
    """As a quota does; needs no root."""
    program = f"""
import resource, signal, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from serving import publish
from dlenv.errors import RepositoryError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    publish(Path({str(root)!r}), "points", "mlp", input_shape=[2], classes=3, hidden=[2000])
except RepositoryError as error:
    sys.exit(0 if "can't be written" in str(error) else str(error))
sys.exit("it was published")
"""
    before = sorted(root.rglob("*"))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(root.rglob("*")) == before


@linux
def test_a_repository_that_can_only_be_read_is_served_and_reloaded(
    small_disk: Path, figures: Figures, tmp_path: Path
) -> None:
    root = small_disk / "models"
    for seed in (1, 2):
        publish(root, MODEL, "mlp", seed=seed, input_shape=[2], classes=3, hidden=[8])
    wanted = questions(Repository(root), MODEL, (1, 2))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with serving(root, models=(f"{MODEL}/1",)) as running, steady(port_of(running), INFER, wanted) as load:
        began = time.monotonic()
        for version in ("[1]", "[2]", "[1]", "[2]"):
            config = f'{{"version_policy": {{"specific": {{"versions": {version}}}}}}}'
            answer = running.client.post(f"/v2/repository/models/{MODEL}/load", json={"parameters": {"config": config}})
            assert answer.status_code == 200, answer.text
            time.sleep(0.3)
        with pytest.raises(RepositoryError, match="can't be written"):
            publish(root, MODEL, "mlp", input_shape=[2], classes=3, hidden=[8])
    figure = load.report.figure("repository read-only, versions switched", began, 0)
    figures.append(figure)
    assert (figure.wrong, figure.lost, figure.told, figure.refused) == (0, 0, 0, 0)
    assert {each.version for each in load.report.outcomes} == {"1", "2"}


@linux
@pytest.mark.chaos
def test_a_full_cache_costs_onnx_runtime_and_no_answer(
    small_disk: Path, root: Path, asked: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exported models are kept in a cache; PyTorch serves where they can't be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk))
    fill(small_disk)
    with serving(root, engine="auto") as running, steady(port_of(running), INFER, asked, rate=50) as load:
        time.sleep(12)
        assert running.client.get("/v2/health/ready").status_code == 200
    assert load.report.count(GOOD) == len(load.report.outcomes), load.report.details(WRONG, LOST, TOLD, REFUSED)
