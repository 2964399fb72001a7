from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dlenv_models import zoo
from dlenv_models.architectures import complete
from dlenv_models.manifest import Architecture, DataInfo, Metrics, Preprocessing, Training
from dlenv_models.repository import Entry, Repository

torch.set_num_threads(1)  # the tests' models are small; threads would only wait for each other

Publish = Callable[..., Entry]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    path.mkdir()
    return path


@pytest.fixture
def publish() -> Publish:
    """Publish a tiny model of two inputs and two classes into a repository."""
    return publish_tiny


def publish_tiny(repository: Repository, name: str = "tiny", seed: int = 0) -> Entry:
    arguments = complete("mlp", {"input_shape": [2], "classes": 2, "hidden": [4]})
    torch.manual_seed(seed)
    return repository.publish(
        name,
        zoo.build("mlp", **arguments),
        architecture=Architecture("mlp", arguments),
        classes=["in", "out"],
        preprocessing=Preprocessing(1.0, (0.0, 0.0), (1.0, 1.0)),
        data=DataInfo("toy", "made up", "Apache-2.0", 8, 2, 4),
        metrics=Metrics(0.75, 0.5, ((2, 0), (1, 1))),
        training=Training(
            "dlenv train mlp --data toy", seed, "2026-01-01T00:00:00+00:00", torch.__version__, {"lr": 0.1}
        ),
    )
