"""Every architecture of the zoo is served: by eager PyTorch, and by ONNX Runtime with the same answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from serving import publish

from dlenv_models import architectures
from dlenv_models.evaluation import predict
from dlenv_models.repository import Repository
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
