"""Every architecture of the zoo is served: by eager PyTorch, and by ONNX Runtime with the same answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from serving import publish, run_service

from dlenv_models import architectures
from dlenv_models.data import Split, load
from dlenv_models.evaluation import measure, predict
from dlenv_models.manifest import Training
from dlenv_models.repository import Repository
from dlenv_models.training import Options, train
from dlenv_service.batcher import Answer
from dlenv_service.config import Settings
from dlenv_service.engine import CpuEngine
from dlenv_service.loading import signature_of, warm_engines
from dlenv_service.onnx_engine import OnnxEngine, difference, sample
from dlenv_service.onnx_export import Exporter, cached

LARGEST = 5
# Small ones where that changes no layer's kind: exporting and warming up take less time.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": [32, 16], "batch_norm": True, "dropout": 0.5},
    "lenet": {"batch_norm": True},
    "vgg": {"input_shape": [1, 8, 8]},
    "nin": {"input_shape": [1, 8, 8]},
    "resnet18": {"input_shape": [1, 8, 8]},
    "lstm": {"input_shape": [1, 8, 8], "hidden": [24]},
    "autoencoder": {"hidden": [32]},
    "rbm": {"hidden": [32]},
    "dbn": {"hidden": [32, 16]},
    "ensemble": {"members": [{"name": "lenet", "arguments": {}}, {"name": "linear", "arguments": {}}]},
}


@pytest.fixture(scope="module")
def zoo_of_all(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    root = tmp_path_factory.mktemp("zoo")
    for name in architectures.ARCHITECTURES:
        publish(root, name, name, **ARGUMENTS.get(name, {}))
    return Repository(root, shipped=None)


def rows_for(repository: Repository, name: str) -> np.ndarray[Any, np.dtype[np.generic]]:
    signature = signature_of(repository.load(name).manifest, LARGEST)
    return sample(signature.shape, signature.dtype, LARGEST)


def wanted(repository: Repository, name: str, rows: np.ndarray[Any, np.dtype[np.generic]]) -> Answer:
    """What the module itself says."""
    model = repository.load(name)
    probabilities = predict(model.module, model.manifest.preprocessing, torch.from_numpy(rows)).softmax(1)
    return Answer(probabilities.numpy(), probabilities.argmax(1).numpy())


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_pytorch_serves_each_architecture(zoo_of_all: Repository, name: str) -> None:
    model = zoo_of_all.load(name)
    signature = signature_of(model.manifest, LARGEST)
    settings = Settings(repository=zoo_of_all.user_root, max_batch=LARGEST, device="cpu", threads=1)
    engine = warm_engines(model, signature, settings, torch.device("cpu")).classifier
    assert isinstance(engine, CpuEngine)
    rows = rows_for(zoo_of_all, name)
    for count in (1, 3, LARGEST):
        answer, _ = engine.run([rows[:count]], count)
        assert difference(answer, wanted(zoo_of_all, name, rows[:count])) is None


# Those with operators that no other has; exporting all of them takes a minute and more.
EXPORTED = ("vgg", "nin", "lstm", "dbn", "ensemble")


@pytest.mark.slow
def test_onnx_runtime_serves_each_kind_of_architecture(
    zoo_of_all: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    manifests = [zoo_of_all.load(name).manifest for name in EXPORTED]
    Exporter().make(zoo_of_all.user_root, manifests)
    for manifest in manifests:
        signature = signature_of(manifest, LARGEST)
        engine = OnnxEngine(cached(manifest), signature.shape, signature.dtype, LARGEST, threads=1)
        engine.warm_up()
        rows = rows_for(zoo_of_all, manifest.name)
        for count in (1, 3, LARGEST):
            answer, _ = engine.run([rows[:count]], count)
            assert difference(answer, wanted(zoo_of_all, manifest.name, rows[:count])) is None, manifest.name


@pytest.mark.slow
def test_resnet18_is_trained_and_served(tmp_path: Path) -> None:
    """One epoch on a few images: the largest of the zoo on the way from data to an answer."""
    digits = load("digits")
    few = replace(digits, train=Split(digits.train.inputs[:192], digits.train.labels[:192]))
    trained = train("resnet18", few, Options(epochs=1, batch_size=32, lr=0.001))
    assert trained.history[0].train_accuracy > 0.15  # of ten classes
    Repository(tmp_path, create=True).publish(
        "few",
        trained.module,
        architecture=trained.architecture,
        classes=digits.classes,
        preprocessing=trained.preprocessing,
        data=few.info(),
        metrics=measure(trained.module, trained.preprocessing, digits.test, len(digits.classes)),
        training=Training("made by a test", 0, "2026-01-01T00:00:00Z", torch.__version__, {}),
    )
    row = digits.test.inputs[:1].to(torch.uint8)
    right = predict(trained.module, trained.preprocessing, row).softmax(1)
    with run_service(Settings(repository=tmp_path, models=("few",), device="cpu", max_batch=2)) as running:
        (said,) = running.client.post("/predict/few", json={"inputs": row.tolist()}).json()["predictions"]
    assert list(said["probabilities"].values()) == pytest.approx(right[0].tolist(), abs=1e-5)
