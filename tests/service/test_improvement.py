"""Models go over from PyTorch to ONNX Runtime: exported by PyTorch's exporter, compared, kept for the next start."""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from serving import Running, run_service

from dlenv.errors import ModelInvalid, StartError
from dlenv_models.repository import Repository
from dlenv_service import child, onnx_export
from dlenv_service.batcher import Answer
from dlenv_service.config import Settings
from dlenv_service.onnx_engine import OnnxEngine, difference, sample
from dlenv_service.onnx_export import Exporter, ExportFailed, cached

MODELS = ("digits", "points", "lenet")


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for all tests here: exporting takes seconds."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cache(kept: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use(kept, monkeypatch)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with nothing in it."""
    return use(tmp_path / "cache", monkeypatch)


def use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(folder))
    return folder


def engine_of(running: Running, model: str) -> str:
    config = httpx.get(f"{running.url}/v2/models/{model}/config").json()
    return str(config["parameters"]["engine"]["string_value"])


def becomes(running: Running, model: str, engine: str, seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while engine_of(running, model) != engine:
        assert time.monotonic() < until, engine_of(running, model)
        time.sleep(0.05)


def asked(running: Running, rows: np.ndarray) -> np.ndarray:
    """Probabilities of `lenet` for images."""
    answer = httpx.post(
        f"{running.url}/v2/models/lenet/infer",
        content=rows.tobytes(),
        headers={"Inference-Header-Content-Length": "0"},
        timeout=30,
    )
    answer.raise_for_status()
    head = int(answer.headers["Inference-Header-Content-Length"])
    return np.frombuffer(answer.content[head : head + len(rows) * 40], np.float32).reshape(-1, 10)


@pytest.fixture
def auto(repository: Path) -> Settings:
    return Settings(repository=repository, models=MODELS, device="cpu", engine="auto")


@pytest.mark.slow
def test_models_are_served_at_once_and_go_over_under_load(cache: Path, auto: Settings) -> None:
    rows = np.random.default_rng(3).integers(0, 256, (3, 1, 28, 28), dtype=np.uint8)
    answers: list[np.ndarray] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.wait(0.01):  # the exporter wants some time, too
            answers.append(asked(running, rows))

    with run_service(auto) as running:
        assert engine_of(running, "lenet") == "pytorch"
        before = asked(running, rows)
        thread = threading.Thread(target=load)
        thread.start()
        try:
            for name in MODELS:
                becomes(running, name, "onnxruntime")
            time.sleep(0.2)
        finally:
            stop.set()
            thread.join()
        after = asked(running, rows)
    assert len(answers) > 10
    for each in [*answers, after]:
        np.testing.assert_allclose(each, before, rtol=0, atol=1e-5)
    # What is kept serves the next start from its first request on, without an exporter.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Exporter, "_run", lambda *_: pytest.fail("exported again"))
        with run_service(auto) as running:
            assert {engine_of(running, name) for name in MODELS} == {"onnxruntime"}
            np.testing.assert_allclose(asked(running, rows), before, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_onnx_can_be_insisted_on(cache: Path, auto: Settings) -> None:
    with run_service(auto.model_copy(update={"engine": "onnx"})) as running:
        assert engine_of(running, "lenet") == "onnxruntime"


@pytest.mark.slow
def test_a_model_that_is_loaded_later_goes_over_too(cache: Path, auto: Settings) -> None:
    with run_service(auto.model_copy(update={"models": ("points",)})) as running:
        httpx.post(f"{running.url}/v2/repository/models/lenet/load", timeout=30).raise_for_status()
        becomes(running, "lenet", "onnxruntime")


def test_without_the_exporter_pytorch_serves(
    empty: Path, auto: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnx_export, "PACKAGES", ("torch", "no-such-package"))
    caplog.set_level(logging.INFO, "dlenv.service")
    with run_service(auto) as running:
        until = time.monotonic() + 20
        while "points version 1 stays on PyTorch: no-such-package is not installed" not in caplog.text:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert engine_of(running, "points") == "pytorch"
    with (
        pytest.raises(StartError, match=r"can't run it \(no-such-package is not installed\); give --engine auto"),
        run_service(auto.model_copy(update={"engine": "onnx", "models": ("points",)})),
    ):
        pass


def put(manifest_of: str, repository: Path, content: bytes) -> Path:
    file = cached(Repository(repository).load(manifest_of).manifest)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def test_a_file_that_is_broken_is_made_again(empty: Path, auto: Settings, repository: Path) -> None:
    file = put("points", repository, b"\x08\x0bnonsense")
    with run_service(auto.model_copy(update={"models": ("points",)})) as running:
        assert engine_of(running, "points") == "pytorch"
    assert not file.exists()


@pytest.mark.slow
def test_another_models_file_is_not_believed(cache: Path, repository: Path, auto: Settings) -> None:
    Exporter().make(repository, [Repository(repository).load("lenet", version).manifest for version in (1, 2)])
    first, second = (cached(Repository(repository).load("lenet", version).manifest) for version in (1, 2))
    right = second.read_bytes()
    try:
        second.write_bytes(first.read_bytes())
        with run_service(auto.model_copy(update={"models": ("lenet",)})) as running:
            assert engine_of(running, "lenet") == "pytorch"
    finally:
        second.write_bytes(right)


@pytest.mark.slow
def test_a_slower_engine_is_not_used(cache: Path, repository: Path, auto: Settings) -> None:
    Exporter().make(repository, [Repository(repository).load("points").manifest])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnnxEngine, "speed", lambda self: 1.0)
        with run_service(auto.model_copy(update={"models": ("points",)})) as running:
            assert engine_of(running, "points") == "pytorch"


def test_closing_ends_the_exporter(empty: Path, auto: Settings) -> None:
    began = time.monotonic()
    with run_service(auto):
        until = time.monotonic() + 20
        while not exporters():
            assert time.monotonic() < until
            time.sleep(0.02)
    assert time.monotonic() - began < 30
    assert exporters() == []
    assert list(empty.rglob("*.onnx")) == []


def exporters() -> list[str]:
    words = []
    for process in psutil.Process().children(recursive=True):
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if "dlenv_service.onnx_export" in line:
            words.append(line)
    return words


@pytest.mark.slow
def test_one_that_fails_does_not_keep_the_others(cache: Path, repository: Path, tmp_path: Path) -> None:
    manifest = Repository(repository).load("points").manifest
    file = cached(manifest)
    command = child.command("dlenv_service.onnx_export", str(repository))
    command += ["nothing", "1", str(tmp_path / "nothing.onnx"), "points", "1", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("nothing version 1: there is no model 'nothing'")
    assert file.is_file()
    assert list(file.parent.glob("*.tmp")) == []


def test_a_model_that_was_replaced_is_not_exported_under_the_old_name(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match="was replaced meanwhile"):
        onnx_export.export(repository, "points", 1, tmp_path / "other.onnx")


def test_a_stopped_exporter_starts_no_more(empty: Path, repository: Path) -> None:
    exporter = Exporter()
    exporter.stop()
    with pytest.raises(ExportFailed, match="the service stops"):
        exporter.make(repository, [Repository(repository).load("points").manifest])


def test_the_name_of_a_file_tells_what_it_was_made_from(
    empty: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Repository(repository)
    names = {cached(models.load(*each).manifest) for each in (("lenet", 1), ("lenet", 2), ("digits",), ("points",))}
    assert len(names) == 4
    monkeypatch.setattr(onnx_export, "FORMAT", 999)
    assert cached(models.load("points").manifest) not in names


def answer(*rows: list[float]) -> Answer:
    probabilities = np.array(rows, np.float32)
    return Answer(probabilities, probabilities.argmax(1))


def test_what_counts_as_the_same_answer() -> None:
    wanted = answer([0.7, 0.3], [0.2, 0.8])
    assert difference(wanted, wanted) is None
    assert difference(answer([0.700005, 0.3], [0.2, 0.8]), wanted) is None
    assert difference(answer([0.7001, 0.2999], [0.2, 0.8]), wanted) == "a probability is 1.0e-04 off"
    assert difference(answer([float("nan"), 0.3], [0.2, 0.8]), wanted) == "a probability is nan off"
    assert difference(wanted._replace(labels=np.array([1, 1])), wanted) == "a label is another one"
    tie = answer([0.5000001, 0.4999999])
    assert difference(answer([0.4999999, 0.5000001]), tie) is None


def test_samples_are_what_models_take() -> None:
    pixels = sample((1, 28, 28), np.dtype(np.uint8), 64)
    assert (pixels.shape, pixels.dtype, pixels.min() < 5, pixels.max() > 250) == ((8, 1, 28, 28), np.uint8, True, True)
    numbers = sample((2,), np.dtype(np.float32), 4)
    assert (numbers.shape, numbers.dtype, numbers.min() < 0 < numbers.max()) == ((4, 2), np.float32, True)


@pytest.fixture(autouse=True)
def _no_exporter_is_left() -> Iterator[None]:
    yield
    assert exporters() == []
