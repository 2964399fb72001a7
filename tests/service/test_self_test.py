"""What a model has to answer before it takes requests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from serving import publish

from dlenv.errors import ModelInvalid
from dlenv_models.repository import Repository
from dlenv_service import loading
from dlenv_service.batcher import Answer, Array
from dlenv_service.config import Settings
from dlenv_service.device import Timing
from dlenv_service.engine import CpuEngine
from dlenv_service.loading import signature_of, warm_engines

CPU = torch.device("cpu")


def warm(root: Path, max_batch: int = 4) -> CpuEngine:
    model = Repository(root, shipped=None).load("digits")
    engine = warm_engines(model, signature_of(model.manifest, 8), Settings(max_batch=max_batch), CPU).classifier
    assert isinstance(engine, CpuEngine)
    return engine


@pytest.mark.parametrize("max_batch", [1, 2, 3])
def test_a_good_model_passes(tmp_path: Path, max_batch: int) -> None:
    publish(tmp_path / "models", "digits", "lenet")
    assert warm(tmp_path / "models", max_batch).name == "pytorch"


def test_an_engine_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "models", "digits", "lenet")

    class Off(CpuEngine):
        def run(self, pieces: list[Array], count: int) -> tuple[Answer, Timing]:
            answer, timing = super().run(pieces, count)
            return answer._replace(probabilities=answer.probabilities + np.float32(0.01)), timing

    monkeypatch.setattr(loading, "CpuEngine", Off)
    with pytest.raises(ModelInvalid, match=r"on cpu its probabilities are off by 0\.01 from PyTorch's on a CPU"):
        warm(tmp_path / "models")


def test_an_engine_that_answers_no_numbers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "models", "digits", "lenet")

    class Nothing(CpuEngine):
        def run(self, pieces: list[Array], count: int) -> tuple[Answer, Timing]:
            answer, timing = super().run(pieces, count)
            return answer._replace(probabilities=answer.probabilities * np.float32("nan")), timing

    monkeypatch.setattr(loading, "CpuEngine", Nothing)
    with pytest.raises(ModelInvalid, match="off by nan"):
        warm(tmp_path / "models")
