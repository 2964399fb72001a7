"""Every answer against eager PyTorch and against ONNX Runtime; whoever is in the same batch makes no difference."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import numpy as np
import pytest
from serving import Running, run_service
from test_http import busy, wait_until
from test_improvement import engine_of, use
from test_numerics import eager

from dlenv_models.repository import Repository
from dlenv_service.config import Settings
from dlenv_service.onnx_export import Exporter, cached

Serve = Callable[..., AbstractContextManager[Running]]
Array = np.ndarray

MODELS = ("digits", "points", "lenet")
BATCH = 8
ROWS = 64
# Float32 probabilities: another engine, or another size of batch, sums in another order.
TOLERANCE = 1e-5
RAW = {"Inference-Header-Content-Length": "0"}


def inputs(name: str, count: int = ROWS) -> Array:
    random = np.random.default_rng(17)
    if name == "points":
        return random.uniform(-3, 3, (count, 2)).astype(np.float32)
    # Blocks of 7 x 7 pixels: of plain noise an untrained network says nearly the same each time.
    return random.integers(0, 256, (count, 1, 4, 4), dtype=np.uint8).repeat(7, 2).repeat(7, 3)


def hostile(name: str) -> list[Array]:
    """Rows that a model takes and that are as far from ordinary as they can be."""
    if name == "points":
        big = np.float32(3e38)
        return [np.array([row], np.float32) for row in ([big, -big], [-big, big], [1e-45, -0.0], [big, big])]
    return [np.full((1, 1, 28, 28), value, np.uint8) for value in (0, 255)]


def send(running: Running, name: str, rows: Array) -> httpx.Response:
    return running.client.post(f"/v2/models/{name}/infer", content=rows.tobytes(), headers=RAW)


def ask(running: Running, name: str, rows: Array) -> Array:
    return read(send(running, name, rows), name, len(rows))


def read(answer: httpx.Response, name: str, count: int) -> Array:
    assert answer.status_code == 200, answer.text
    at = int(answer.headers["inference-header-content-length"])
    classes = 3 if name == "points" else 10
    return np.frombuffer(answer.content[at:], "<f4", count * classes).reshape(count, classes)


def onnx(repository: Path, name: str, rows: Array) -> Array:
    """ONNX Runtime itself, each row by itself."""
    import onnxruntime

    manifest = Repository(repository).load(name).manifest
    session = onnxruntime.InferenceSession(str(cached(manifest)), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {session.get_inputs()[0].name: row[None]})[0] for row in rows])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Running]:
    """A service whose models have all gone over to ONNX Runtime."""
    with pytest.MonkeyPatch.context() as environment:
        use(tmp_path_factory.mktemp("cache"), environment)
        Exporter().make(repository, [Repository(repository).load(name).manifest for name in MODELS])
        settings = Settings(repository=repository, models=MODELS, device="cpu", engine="onnx", max_batch=BATCH)
        with run_service(settings) as running:
            assert {engine_of(running, name) for name in MODELS} == {"onnxruntime"}
            yield running


@pytest.fixture(scope="module")
def plain(repository: Path) -> Iterator[Running]:
    settings = Settings(repository=repository, models=MODELS, device="cpu", engine="eager", max_batch=BATCH)
    with run_service(settings) as running:
        yield running


@pytest.fixture(params=["plain", pytest.param("exported", marks=pytest.mark.slow)])
def running(request: pytest.FixtureRequest) -> Running:
    it = request.getfixturevalue(request.param)
    assert isinstance(it, Running)
    return it


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_of_eager_pytorch_row_by_row(running: Running, repository: Path, name: str) -> None:
    rows = inputs(name)
    wanted = eager_of(repository, name, rows)
    assert np.abs(wanted[1:] - wanted[:-1]).max(1).min() > 10 * TOLERANCE  # somebody else's answer would be noticed
    for count in (1, 2, 3, BATCH - 1, BATCH, BATCH + 1, ROWS):
        np.testing.assert_allclose(ask(running, name, rows[:count]), wanted[:count], rtol=0, atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_of_onnx_runtime_row_by_row(
    exported: Running, plain: Running, repository: Path, name: str
) -> None:
    rows = inputs(name)
    wanted = onnx(repository, name, rows)
    np.testing.assert_allclose(wanted, eager_of(repository, name, rows), rtol=0, atol=TOLERANCE)
    for service in (exported, plain):
        np.testing.assert_allclose(ask(service, name, rows), wanted, rtol=0, atol=TOLERANCE)


def eager_of(repository: Path, name: str, rows: Array) -> Array:
    if name != "points":
        return eager(repository, name, rows)
    import torch

    loaded = Repository(repository).load(name)
    prepare = loaded.manifest.preprocessing
    with torch.inference_mode():
        values = (torch.from_numpy(rows) * prepare.scale - torch.tensor(prepare.mean)) / torch.tensor(prepare.std)
        return torch.cat([torch.softmax(loaded.module(value[None]), 1) for value in values]).numpy()


@pytest.mark.parametrize("name", MODELS)
def test_batch_mates_make_no_difference(running: Running, name: str) -> None:
    """The same row alone, in a full batch, and beside neighbours that overflow, at each place of the batch."""
    victim, bad = inputs(name)[:1], hostile(name)
    alone = ask(running, name, victim)
    for place, kind in itertools.product((0, BATCH - 1), ("ordinary", "hostile")):
        rows = [inputs(name)[n + 1 : n + 2] if kind == "ordinary" else bad[n % len(bad)] for n in range(BATCH)]
        rows[place] = victim
        answers: dict[int, httpx.Response] = {}

        def client(number: int, rows: list[Array] = rows, answers: dict[int, httpx.Response] = answers) -> None:
            answers[number] = send(running, name, rows[number])

        before = runs(running, name)
        threads = [threading.Thread(target=client, args=(number,)) for number in range(BATCH)]
        with busy(running):
            for number, thread in enumerate(threads):
                thread.start()
                wait_until(lambda number=number: running.service.queued_rows == number + 1)
        for thread in threads:
            thread.join(30)
        mine, *others = [answers.pop(place), *answers.values()]
        np.testing.assert_allclose(read(mine, name, 1), alone, rtol=0, atol=TOLERANCE)
        # A neighbour that overflows is told so, itself alone.
        assert {other.status_code for other in others} <= ({200} if kind == "ordinary" else {200, 422})
        assert runs(running, name) - before <= BATCH // 4  # they shared batches; a CPU may take smaller ones


def runs(running: Running, name: str) -> int:
    stats = running.client.get(f"/v2/models/{name}/stats").json()["model_stats"]
    return sum(each["execution_count"] for each in stats)
