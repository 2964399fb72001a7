"""A repository of small untrained models, and the service on a real port in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from serving import Running, publish, run_service

from dlenv_service.config import Settings

__all__ = ["Running", "publish", "run_service"]


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`digits` and `points` once, `lenet` in two versions; nobody may change it."""
    root = tmp_path_factory.mktemp("repository")
    publish(root, "digits", "mlp", hidden=[32])
    publish(root, "points", "linear", input_shape=[2], classes=3)
    publish(root, "lenet", "lenet", seed=1)
    publish(root, "lenet", "lenet", seed=2)
    return root


@pytest.fixture(scope="session")
def running(repository: Path) -> Iterator[Running]:
    """One service for all tests that don't change it."""
    with run_service(Settings(repository=repository, models=("digits", "points", "lenet"), device="cpu")) as it:
        yield it


@pytest.fixture
def serve(repository: Path) -> Callable[..., AbstractContextManager[Running]]:
    """Start a service of its own: `with serve(max_batch=4) as running`."""

    def start(**settings: object) -> AbstractContextManager[Running]:
        given = {"repository": repository, "models": ("digits", "points", "lenet"), "device": "cpu", **settings}
        return run_service(Settings(**given))  # type: ignore[arg-type]

    return start
